"""Which packets of a video hold which frames. Shapes: N frames of the file.

Two ways: `Indexed` believes the container's index and reads only what a stretch of frames needs, `Listed` reads all.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from data.shards.sample import DamagedSampleError
from launch.command.cli import reason
from launch.command.libraries import library

av = library("av", "video")


class UnclearError(Exception):
    """The index doesn't tell which packets are which frames; all of them have to be read."""


class Table(Protocol):
    """The frames of a video, numbered in the order in which they are shown."""

    frames: int
    """Frames N."""
    times: np.ndarray
    """See VideoFile."""

    def begins(self, number: int) -> int:
        """Place, in the order of decoding, of the key frame from which a frame can be decoded."""
        ...

    def stretch(self, first: int, last: int) -> tuple[list[Any], dict[int, int] | None]:
        """The packets from the key frame before `first` to the last one that is needed up to frame `last`.

        Also the frames' numbers by their time of presentation; None: they are counted from the first packet on.
        """
        ...


def told(error: Exception) -> str:
    """What FFmpeg says, without the name of a file that there isn't."""
    return (getattr(error, "strerror", None) or reason(error))[:200]


class Listed:
    """All packets of the stream, with the times that they have. DamagedSampleError where none can be shown."""

    def __init__(self, container: Any, stream: Any, indexed: bool):
        try:
            container.seek(0)
            listed = [one for one in container.demux(stream) if one.size or one.dts is not None]
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be read: {told(error)}") from error
        stated = len(stream.index_entries) if indexed else 0
        if len(listed) < stated:
            raise DamagedSampleError(f"it ends after {len(listed)} of {stated} frames")
        self._packets = [one for one in listed if one.size]
        shown = [one for one in self._packets if not one.is_discard]
        if stream.codec_context.name == "vp8":
            shown = [one for one in shown if not _hidden(one)]
        pts = [one.pts for one in shown if one.pts is not None]
        # AVI's have no times of presentation: for H.264, FFmpeg numbers them in the order of decoding
        made_up = container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")
        keys = [i for i, one in enumerate(self._packets) if one.is_keyframe and one.pts is not None]
        self._timed = len(set(pts)) == len(shown) and not made_up and bool(keys)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if self._timed:
            self._keys = np.array(keys)
            self._key_pts = np.array([self._packets[i].pts for i in keys], dtype=np.int64)
            self._pts = np.array(sorted(one for one in pts if one >= self._key_pts[0]), dtype=np.int64)
            if not len(self._pts):
                raise DamagedSampleError("it has no frames that can be shown")
            self._number = {one: i for i, one in enumerate(self._pts.tolist())}
            last = self._pts[-1] - self._pts[-2] if len(self._pts) > 1 else round(1 / rate / stream.time_base)
            self.frames = len(self._pts)
            self.times = (np.append(self._pts, self._pts[-1] + last) - self._pts[0]) * float(stream.time_base)
        else:
            self.frames = len(shown)
            self.times = np.arange(self.frames + 1) / rate
        if not self.frames:
            raise DamagedSampleError("it has no frames")

    def begins(self, number: int) -> int:
        """See Table."""
        if not self._timed:
            return 0
        return int(self._keys[np.searchsorted(self._key_pts, self._pts[number], side="right") - 1])

    def stretch(self, first: int, last: int) -> tuple[list[Any], dict[int, int] | None]:
        """See Table."""
        packets = self._packets[self.begins(first) :]
        return (_needed(packets, int(self._pts[last])), self._number) if self._timed else (packets, None)


class Indexed:
    """The index of an MP4 or MOV at a constant rate, whose frames are decoded from each key frame on by themselves.

    Then the frames of a group have the numbers of its packets, in the order of their times. UnclearError where the
    index isn't of that kind; `stretch` also where the packets aren't.
    """

    def __init__(self, container: Any, stream: Any):
        self._container, self._stream = container, stream
        entries = [(one.timestamp, one.is_keyframe, one.is_discard or not one.size) for one in stream.index_entries]
        steps = {after - before for (before, *_), (after, *_) in pairwise(entries)}
        # of a file in fragments it holds the first one only, while nobody says how many frames there are
        whole = len(entries) == stream.frames and not any(left_out for *_, left_out in entries)
        if len(steps) != 1 or not whole or not entries[0][1]:
            raise UnclearError
        self.frames, self._first, self._step = len(entries), entries[0][0], steps.pop()
        if self._step <= 0:
            raise UnclearError
        self._keys = np.array([i for i, (_, key, _) in enumerate(entries) if key])
        self.times = np.arange(self.frames + 1) * (self._step * float(stream.time_base))

    def begins(self, number: int) -> int:
        """See Table."""
        return int(self._keys[np.searchsorted(self._keys, number, side="right") - 1])

    def stretch(self, first: int, last: int) -> tuple[list[Any], dict[int, int] | None]:
        """See Table."""
        begin, after = self.begins(first), int(np.searchsorted(self._keys, last, side="right"))
        end = int(self._keys[after]) if after < len(self._keys) else self.frames
        packets = self._read(begin, min(end + 2, self.frames))  # two of the next group, which tell that it is apart
        own, next_ones = packets[: end - begin], packets[end - begin :]
        times = sorted(one.pts for one in own)
        number_of = {time: begin + i for i, time in enumerate(times)}
        starts = [int(key) for key in self._keys if begin <= key < end]
        apart = all(number_of[own[key - begin].pts] == key and own[key - begin].is_keyframe for key in starts)
        if next_ones:
            apart = apart and next_ones[0].is_keyframe and times[-1] < next_ones[0].pts == min(o.pts for o in next_ones)
        if not apart or times != list(range(times[0], times[0] + len(own) * self._step, self._step)):
            raise UnclearError
        return _needed(own, times[last - begin]), number_of

    def _read(self, begin: int, end: int) -> list[Any]:
        """The packets of these places."""
        found: list[Any] = []
        start = self._first + begin * self._step
        shift = (self._stream.start_time or 0) - self._first  # a place is sought by its time of presentation
        try:
            self._container.seek(start + shift, stream=self._stream)
            for packet in self._container.demux(self._stream):
                if packet.dts is None or packet.pts is None or packet.dts > start + len(found) * self._step:
                    break
                if packet.dts >= start:
                    found.append(packet)
                if len(found) == end - begin:
                    return found
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DamagedSampleError(f"can't be read: {told(error)}") from error
        raise UnclearError


def _needed(packets: Sequence[Any], last: int) -> list[Any]:
    """The packets up to the last one that is shown until the time `last`."""
    count = len(packets)
    while count and (packets[count - 1].pts is None or packets[count - 1].pts > last):
        count -= 1
    return list(packets[:count])


def _hidden(packet: Any) -> bool:
    """Whether a packet of VP8 holds a frame that is only referred to, which its first byte says (RFC 6386, 9.1)."""
    return not memoryview(packet)[0] & 16
