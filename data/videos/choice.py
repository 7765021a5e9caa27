"""Which frames of a video a clip has. No torch here. Shapes: T frames of the clip, N frames of the file."""

from collections.abc import Sequence

import numpy as np

from data.videos.config import VideoConfig
from data.videos.video import VideoFile

_LATE = 0.25
"""Share of the time between two frames, of the clip or the video, by which a frame may come too late for its time:
containers round times."""


def chosen(file: VideoFile, config: VideoConfig, draw: float | None) -> list[int]:
    """The frames of a clip, ascending; fewer than T where the video is too short, but at least one.

    `draw` in [0, 1) is the random number of the start; None, or random_start=false: the clip's middle is the video's.
    """
    times = np.empty(0) if config.frame_rate is None else file.times
    if config.frame_rate is None:
        starts = file.frames - (config.frames - 1) * config.stride
    else:
        starts = _starts_in_time(times, config.frames, config.frame_rate)
    random = draw is not None and config.random_start
    first = (int(starts * draw) if random and draw is not None else (starts - 1) // 2) if starts > 0 else 0
    if config.frame_rate is not None:
        return shown_at(times, first, config.frames, config.frame_rate)
    return list(range(first, min(file.frames, first + config.frames * config.stride), config.stride))[: config.frames]


def _starts_in_time(times: np.ndarray, frames: int, rate: float) -> int:
    """How many of the first frames leave time enough for a clip."""
    seconds = (frames - 1) / rate + _late(times, rate)
    return int(np.searchsorted(times[:-1], times[-1] - seconds, side="right"))


def _late(times: np.ndarray, rate: float) -> float:
    return _LATE * min(1 / rate, float(np.median(np.diff(times))))


def shown_at(times: np.ndarray, first: int, count: int, rate: float) -> list[int]:
    """Frames shown at the times k / `rate` after that of frame `first`, k < `count`; none after the video's end.

    `times` is VideoFile's. A frame that comes a little too late for its time counts as shown.
    """
    wanted_T = times[first] + np.arange(1, count) / rate + _late(times, rate)
    found_T = np.searchsorted(times, wanted_T[wanted_T <= times[-1]], side="right") - 1
    return [first, *np.minimum(found_T, len(times) - 2).tolist()]


def whole(file: VideoFile, most: int) -> Sequence[int]:
    """At most `most` frames, evenly spread over a video, the first and the last among them."""
    return sorted(set(np.linspace(0, file.frames - 1, min(most, file.frames)).round().astype(int).tolist()))
