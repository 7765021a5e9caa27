"""Videos that FFmpeg decodes, inside PyAV, which the extra `video` brings along.

Shapes: N frames of the file, H W pixels, C channels.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np

from data.pictures.config import FrameConfig
from data.pictures.decode import check_pixels
from data.shards.sample import DamagedSampleError
from data.videos.packets import Indexed, Listed, Table, UnclearError, av, told
from data.videos.video import VideoFile

DEMUXERS = {"mp4": "mov", "mov": "mov", "webm": "matroska", "mkv": "matroska", "avi": "avi"}
"""FFmpeg's names: it is told the format, so that nothing else is tried (playlists would open other files)."""
_DELAY = 8
"""Frames between two wanted ones above which decoding begins anew at a later key frame."""
_TRANSFERS = {16: "pq", 18: "hlg"}
"""Transfer characteristics of HDR, by their numbers in ITU-T H.273."""
_SLACK = 0.5
"""Seconds by which a header's length may be too long."""


class Film(VideoFile):
    """A video that FFmpeg decodes: from the key frame before a wanted frame on, and no further than needed.

    Frames are exact at any frame rate, variable ones included: where the index doesn't tell them, packets are listed.
    """

    def __init__(self, data: bytes | memoryview, extension: str, max_pixels: int):
        self._extension, self._max_pixels = extension, max_pixels
        try:
            self._container = av.open(io.BytesIO(data), format=DEMUXERS[extension])
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be opened: {told(error)}") from error
        try:
            self._stream = self._first_stream()
            self._aspect = self._stream.sample_aspect_ratio
            self._colours = av.video.reformatter.VideoReformatter()
            check_pixels(self._stream.width, self._stream.height, max_pixels)
            self._table = self._find()
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

    def _find(self) -> Table:
        """The table of packets: by the index where that is enough."""
        if DEMUXERS[self._extension] == "mov":
            with suppress(UnclearError):
                return Indexed(self._container, self._stream)
        return self._listed()

    def _listed(self) -> Listed:
        return Listed(self._container, self._stream, indexed=DEMUXERS[self._extension] == "mov")

    @property
    def frames(self) -> int:
        """See VideoFile."""
        return self._table.frames

    @property
    def times(self) -> np.ndarray:
        """See VideoFile."""
        return self._table.times

    def read(self, numbers: Sequence[int], config: FrameConfig) -> Iterator[np.ndarray]:
        """See VideoFile."""
        left = list(numbers)
        while left:
            if left[-1] >= self.frames:
                raise DamagedSampleError(f"it ends after {self.frames} frames, before frame {left[-1]}")
            begin = self._table.begins(left[0])
            far = (i for i, (before, after) in enumerate(pairwise(left), 1)
                   if after - before > _DELAY and self._table.begins(after) > begin)  # fmt: skip
            stop = next(far, len(left))
            try:
                packets, number_of = self._table.stretch(left[0], left[stop - 1])
            except UnclearError:
                self._table = self._listed()
                continue
            for frame in self._decoded(packets, number_of, left[:stop]):
                yield self._pixels(frame, config)
            left = left[stop:]

    def _decoded(self, packets: list[Any], number_of: dict[int, int] | None, wanted: list[int]) -> Iterator[Any]:
        """The wanted frames, from packets that begin with a key frame. `number_of` is `Table.stretch`'s."""
        context, left, count, skipping = self._stream.codec_context, wanted[::-1], 0, False
        context.flush_buffers()
        context.skip_frame = "DEFAULT"
        try:
            for packet in [*packets, None]:
                early = bool(packet and number_of and number_of.get(packet.pts, wanted[0]) < wanted[0])
                if early != skipping:  # frames that none refers to
                    skipping, context.skip_frame = early, "NONREF" if early else "DEFAULT"
                for frame in context.decode(packet):
                    number = count if number_of is None else number_of.get(frame.pts, -1)
                    count += 1
                    if number < left[-1]:
                        continue
                    if number > left[-1] or frame.is_corrupt:
                        raise DamagedSampleError(f"frame {left[-1]} of {self.frames} can't be decoded")
                    left.pop()
                    yield frame
                    if not left:
                        return
        except DamagedSampleError:
            raise
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be decoded: {told(error)}") from error
        raise DamagedSampleError(f"it ends before frame {left[-1]} of {self.frames}")

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
            raise DamagedSampleError(f"its colours can't be converted: {told(error)}") from error
        turns = round(frame.rotation / 90) % 4
        pixels = np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def check_end(self) -> None:
        """See VideoFile: whether some stream goes on for as long as the header says."""
        self._table = self._listed()
        stated = (self._container.duration or 0) / av.time_base
        try:
            self._container.seek(0)
            ends = [
                float((one.pts + (one.duration or 0)) * one.time_base)
                for one in self._container.demux()
                if one.pts is not None and one.time_base
            ]
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be read: {told(error)}") from error
        if ends and max(ends) < stated - max(_SLACK, 0.05 * stated):
            raise DamagedSampleError(f"it ends after {max(ends):.1f} of {stated:.1f} s")

    def close(self) -> None:
        """See VideoFile."""
        self._container.close()
