"""Videos that FFmpeg decodes, inside PyAV, which the extra `video` brings along.

Shapes: N frames of the file, H W pixels, C channels.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.pictures.config import FrameConfig
from data.pictures.decode import check_pixels
from data.shards.sample import DamagedSampleError
from data.videos.video import VideoFile
from launch.command.cli import reason
from launch.command.libraries import library

av = library("av", "video")
DEMUXERS = {"mp4": "mov", "mov": "mov", "webm": "matroska", "mkv": "matroska", "avi": "avi"}
"""FFmpeg's names: it is told the format, so that nothing else is tried (playlists would open other files)."""
_DELAY = 16
"""Frames between two wanted ones from which on decoding begins anew at a later key frame."""
_TRANSFERS = {16: "pq", 18: "hlg"}
"""Transfer characteristics of HDR, by their numbers in ITU-T H.273."""
_SLACK = 0.5
"""Seconds by which a header's length may be too long."""


class Film(VideoFile):
    """A video that FFmpeg decodes. All its packets are listed, and only those that wanted frames need are decoded.

    So frames are exact at any frame rate, variable ones included, and no container has to be trusted to seek.
    """

    def __init__(self, data: bytes | memoryview, extension: str, max_pixels: int):
        self._extension, self._max_pixels = extension, max_pixels
        try:
            self._container = av.open(io.BytesIO(data), format=DEMUXERS[extension])
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be opened: {_why(error)}") from error
        try:
            self._stream = self._first_stream()
            self._aspect = self._stream.sample_aspect_ratio
            self._colours = av.video.reformatter.VideoReformatter()
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
            listed = [one for one in self._container.demux(self._stream) if one.size or one.dts is not None]
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be read: {_why(error)}") from error
        stated = len(self._stream.index_entries) if DEMUXERS[self._extension] == "mov" else 0
        if len(listed) < stated:
            raise DamagedSampleError(f"it ends after {len(listed)} of {stated} frames")
        self._packets = [one for one in listed if one.size]
        shown = [one for one in self._packets if not one.is_discard]
        if self._stream.codec_context.name == "vp8":
            shown = [one for one in shown if not _hidden(one)]
        pts = [one.pts for one in shown if one.pts is not None]
        # AVI's have no times of presentation: for H.264, FFmpeg numbers them in the order of decoding
        made_up = self._extension == "avi" and self._stream.codec_context.name in ("h264", "hevc")
        self._numbered = len(set(pts)) == len(shown) and not made_up
        """Whether times of presentation tell the frames; else they are counted from the first one on."""
        keys = [i for i, one in enumerate(self._packets) if one.is_keyframe and one.pts is not None]
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
        context.skip_frame = "DEFAULT"
        count = 0
        try:
            skipping, start = False, int(self._pts[wanted]) if self._numbered else 0
            for packet in [*self._packets[first:], None]:
                early = self._numbered and packet is not None and packet.pts is not None and packet.pts < start
                if early != skipping:
                    skipping, context.skip_frame = early, "NONREF" if early else "DEFAULT"
                for frame in context.decode(packet):
                    number = self._number.get(frame.pts, -1) if self._numbered else count
                    count += 1
                    yield number, frame
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be decoded: {_why(error)}") from error

    def _pixels(self, frame: Any, config: FrameConfig) -> np.ndarray:
        """A frame in RGB or grey, upright and with square pixels."""
        check_pixels(frame.width, frame.height, self._max_pixels)
        self.hdr = _TRANSFERS.get(int(frame.color_trc), "")
        width = max(1, round(frame.width * self._aspect)) if self._aspect else frame.width
        check_pixels(width, frame.height, self._max_pixels)
        colours = "rgb24" if config.channels == 3 else "gray"
        try:
            # by one thread and with tables that are kept: frame.to_ndarray(format=…) takes ten times as long
            pixels = self._colours.reformat(frame, width, frame.height, colours, threads=1).to_ndarray()
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"its colours can't be converted: {_why(error)}") from error
        turns = round(frame.rotation / 90) % 4
        pixels = np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def check_end(self) -> None:
        """See VideoFile: whether some stream goes on for as long as the header says."""
        stated = (self._container.duration or 0) / av.time_base
        try:
            self._container.seek(0)
            ends = [
                float((one.pts + (one.duration or 0)) * one.time_base)
                for one in self._container.demux()
                if one.pts is not None and one.time_base
            ]
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be read: {_why(error)}") from error
        if ends and max(ends) < stated - max(_SLACK, 0.05 * stated):
            raise DamagedSampleError(f"it ends after {max(ends):.1f} of {stated:.1f} s")

    def close(self) -> None:
        """See VideoFile."""
        self._container.close()


def _why(error: Exception) -> str:
    """What FFmpeg says, without the name of a file that there isn't."""
    return (getattr(error, "strerror", None) or reason(error))[:200]


def _hidden(packet: Any) -> bool:
    """Whether a packet of VP8 holds a frame that is only referred to, which its first byte says (RFC 6386, 9.1)."""
    return not memoryview(packet)[0] & 16
