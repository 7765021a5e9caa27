"""Video files of any format in memory: how many frames they have, when each is shown, and some of their frames.

The format is recognised by the first bytes, not by the extension. Animations (WebP, GIF) go through PIL, all others
through FFmpeg inside PyAV, which the extra `video` brings along. Shapes: N frames of the file, H W pixels, C channels.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from data.pictures.config import FrameConfig
from data.pictures.decode import check_pixels, opened, pixels_of
from data.shards.sample import DamagedSampleError, Sample, member_of
from data.shards.signature import LENGTH, VIDEOS, video_format
from launch.command.cli import reason
from launch.command.libraries import library

av = library("av", "video")
_DEMUXERS = {"mp4": "mov", "mov": "mov", "webm": "matroska", "mkv": "matroska", "avi": "avi"}
"""FFmpeg's names: it is told the format, so that nothing else is tried (playlists would open other files)."""
_DELAY = 16
"""Frames between two wanted ones from which on decoding begins anew at a later key frame."""
_TRANSFERS = {16: "pq", 18: "hlg"}
"""Transfer characteristics of HDR, by their numbers in ITU-T H.273."""
_SHOWN = 0.1
"""Seconds that a frame of an animation is shown that doesn't say how long, as browsers do it."""


def video_member(sample: Sample) -> str:
    """The extension of the sample's video (`data.shards.sample.member_of`); DamagedSampleError without one."""
    return member_of(sample, VIDEOS, "video")


def extension_of(encoded: bytes | memoryview) -> str:
    """The extension that fits the first bytes, whatever the file is called. DamagedSampleError for no known video."""
    if not len(encoded):
        raise DamagedSampleError("no bytes")
    extension = video_format(encoded[:LENGTH])
    if extension is None or extension not in VIDEOS:
        what = f"{extension} videos can't be decoded" if extension else "not a video of a known format"
        raise DamagedSampleError(what)
    return extension


class VideoFile(ABC):
    """One video; a context manager. Frames are numbered from 0 in the order in which they are shown."""

    frames: int
    """Frames N that can be shown, 1 or more."""
    hdr: str = ""
    """Transfer characteristics, pq or hlg, of videos with a high dynamic range."""

    @property
    @abstractmethod
    def times(self) -> np.ndarray:
        """Seconds from the first frame on, float64 (N + 1,): when each frame is shown, and when the last one ends."""

    @abstractmethod
    def read(self, numbers: Sequence[int], config: FrameConfig) -> Iterator[np.ndarray]:
        """The frames of these ascending numbers, each uint8 (H, W, C), upright; one is in memory at a time.

        DamagedSampleError where one can't be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the file holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_video(data: bytes | memoryview, max_pixels: int) -> VideoFile:
    """An encoded video. DamagedSampleError for none, and for frames of more than `max_pixels`."""
    extension = extension_of(data)
    return Film(data, extension, max_pixels) if extension in _DEMUXERS else Animation(data, extension, max_pixels)


class Animation(VideoFile):
    """An animated WebP or GIF; a still picture of these formats has one frame."""

    def __init__(self, data: bytes | memoryview, extension: str, max_pixels: int):
        self._data, self._extension = data, extension
        try:
            self._image = opened(data)
            check_pixels(*self._image.size, max_pixels)
            self.frames = getattr(self._image, "n_frames", 1)
        except DamagedSampleError:
            raise
        except Exception as error:  # PIL raises all kinds of exceptions on damaged input
            raise DamagedSampleError(f"can't be opened: {reason(error)}"[:200]) from error

    @property
    def times(self) -> np.ndarray:
        """See VideoFile."""
        seconds = webp_seconds(self._data) if self._extension == "webp" else self._gif_seconds()
        return np.concatenate([[0.0], np.cumsum([one or _SHOWN for one in seconds or [0.0]])])

    def _gif_seconds(self) -> list[float]:
        try:
            found = []
            for number in range(self.frames):
                self._image.seek(number)
                found.append(self._image.info.get("duration", 0) / 1000)
            return found
        except Exception as error:  # see above
            raise DamagedSampleError(f"can't be decoded: {reason(error)}"[:200]) from error

    def read(self, numbers: Sequence[int], config: FrameConfig) -> Iterator[np.ndarray]:
        """See VideoFile."""
        for number in numbers:
            try:
                self._image.seek(number)
                pixels_HWC = pixels_of(self._image, config)
            except DamagedSampleError:
                raise
            except Exception as error:  # see above
                raise DamagedSampleError(f"frame {number} can't be decoded: {reason(error)}"[:200]) from error
            yield pixels_HWC

    def close(self) -> None:
        """See VideoFile."""
        self._image.close()


def webp_seconds(data: bytes | memoryview) -> list[float]:
    """How long each frame of a WebP is shown, from its ANMF chunks; nothing of a still one. Decodes nothing."""
    seconds, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if bytes(data[at : at + 4]) == b"ANMF":
            seconds.append(int.from_bytes(data[at + 20 : at + 23], "little") / 1000)
        at += 8 + size + size % 2
    return seconds


class Film(VideoFile):
    """A video that FFmpeg decodes. All its packets are listed, and only those that wanted frames need are decoded.

    So frames are exact at any frame rate, variable ones included, and no container has to be trusted to seek.
    """

    def __init__(self, data: bytes | memoryview, extension: str, max_pixels: int):
        self._max_pixels = max_pixels
        try:
            # genpts: AVI has no times of presentation
            options = {"fflags": "+genpts"}
            self._container = av.open(io.BytesIO(data), format=_DEMUXERS[extension], container_options=options)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be opened: {reason(error)}"[:200]) from error
        try:
            self._stream = self._first_stream()
            check_pixels(self._stream.width, self._stream.height, max_pixels)
            self._list()
        except BaseException:
            self._container.close()
            raise

    def _first_stream(self) -> Any:
        """The first stream of video that is no cover picture, decoded by one thread."""
        cover = av.stream.Disposition.attached_pic
        streams = [one for one in self._container.streams.video if not one.disposition & cover]
        if not streams or streams[0].codec_context is None:
            raise DamagedSampleError("it has no video that can be decoded")
        streams[0].codec_context.thread_count = 1
        return streams[0]

    def _list(self) -> None:
        """Read all packets; find the frames and the key frames from which they can be decoded."""
        try:
            self._packets = [one for one in self._container.demux(self._stream) if one.size]
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be read: {reason(error)}"[:200]) from error
        shown = [one for one in self._packets if not one.is_discard and not _hidden(one, self._stream)]
        pts = [one.pts for one in shown if one.pts is not None]
        self._numbered = len(set(pts)) == len(shown)
        """Whether times of presentation tell the frames; else they are counted."""
        keys = [i for i, one in enumerate(self._packets) if one.is_keyframe]
        if self._numbered and keys:
            self._keys = np.array(keys)
            self._key_pts = np.array([self._packets[i].pts for i in keys], dtype=np.int64)
            self._pts = np.array(sorted(one for one in pts if one >= self._key_pts[0]), dtype=np.int64)
            self._number = {one: i for i, one in enumerate(self._pts.tolist())}
            self.frames = len(self._pts)
        else:
            self._numbered, self.frames = False, len(shown)
        if not self.frames:
            raise DamagedSampleError("it has no frames")

    @property
    def times(self) -> np.ndarray:
        """See VideoFile."""
        rate = self._stream.average_rate or self._stream.guessed_rate or 25
        if not self._numbered:
            return np.arange(self.frames + 1) / float(rate)
        last = self._pts[-1] - self._pts[-2] if self.frames > 1 else round(1 / rate / self._stream.time_base)
        return (np.append(self._pts, self._pts[-1] + last) - self._pts[0]) * float(self._stream.time_base)

    def read(self, numbers: Sequence[int], config: FrameConfig) -> Iterator[np.ndarray]:
        """See VideoFile."""
        left = list(numbers)[::-1]
        while left:
            first = self._key_before(left[-1])
            for number, frame in self._decoded(first, left[-1]):
                if number < left[-1]:
                    continue
                if number > left[-1] or frame.is_corrupt:
                    raise DamagedSampleError(f"frame {left[-1]} of {self.frames} can't be decoded")
                left.pop()
                yield self._pixels(frame, config)
                if not left or (left[-1] - number > _DELAY and self._key_before(left[-1]) > first):
                    break
            else:
                raise DamagedSampleError(f"it ends before frame {left[-1]} of {self.frames}")

    def _key_before(self, number: int) -> int:
        """The packet at which decoding has to begin for a frame."""
        if not self._numbered:
            return 0
        return int(self._keys[np.searchsorted(self._key_pts, self._pts[number], side="right") - 1])

    def _decoded(self, first: int, wanted: int) -> Iterator[tuple[int, Any]]:
        """Number and frame of all that is decoded from a packet on; of those before `wanted`, some may be missing."""
        context = self._stream.codec_context
        context.flush_buffers()
        count = 0
        try:
            for packet in [*self._packets[first:], None]:
                if self._numbered and packet is not None:
                    early = packet.pts is not None and packet.pts < self._pts[wanted]
                    context.skip_frame = "NONREF" if early else "DEFAULT"
                for frame in context.decode(packet):
                    number = self._number.get(frame.pts, -1) if self._numbered else count
                    count += 1
                    yield number, frame
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be decoded: {reason(error)}"[:200]) from error

    def _pixels(self, frame: Any, config: FrameConfig) -> np.ndarray:
        """A frame in RGB or grey, upright and with square pixels."""
        check_pixels(frame.width, frame.height, self._max_pixels)
        self.hdr = _TRANSFERS.get(int(frame.color_trc), "")
        shape = self._stream.sample_aspect_ratio
        width = max(1, round(frame.width * shape)) if shape else frame.width
        check_pixels(width, frame.height, self._max_pixels)
        colours = "rgb24" if config.channels == 3 else "gray"
        try:
            pixels = frame.to_ndarray(format=colours, width=width, height=frame.height)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"its colours can't be converted: {reason(error)}"[:200]) from error
        turns = round(frame.rotation / 90) % 4
        pixels = np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def close(self) -> None:
        """See VideoFile."""
        self._container.close()


def _hidden(packet: Any, stream: Any) -> bool:
    """Whether a packet of VP8 holds a frame that is only referred to, which its first byte says (RFC 6386, 9.1)."""
    return stream.codec_context.name == "vp8" and not bytes(memoryview(packet)[:1])[0] & 16
