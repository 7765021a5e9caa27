"""From a video file to a clip: which frames are taken, and how they become pixels of one size.

Shapes: C channels, T frames of the clip, N frames of the file, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.pictures.geometry import Draw
from data.pictures.transforms import apply
from data.shards.quarantine import QuarantinedError
from data.videos.colours import to_sdr
from data.videos.config import VideoConfig
from data.videos.files import open_video
from data.videos.video import VideoFile

_LATE = 0.25
"""Share of the time between two frames, of the clip or the video, by which a frame may come too late for its time:
containers round times."""


@dataclass(frozen=True)
class ClipDraw:
    """The random numbers of one clip, each uniform in [0, 1)."""

    frame: Draw
    """Those of the crop and the flip, the same for all frames."""
    start: float


def clip_of(data: bytes | memoryview, config: VideoConfig, max_pixels: int = 100_000_000) -> np.ndarray:
    """The clip x_CTHW, uint8, of an encoded video, as in evaluation; DamagedSampleError for what can't be decoded."""
    clip_CTHW = np.empty((config.channels, *config.sizes), np.uint8)
    fill_clip(data, config, clip_CTHW, max_pixels=max_pixels, random=None)
    return clip_CTHW


def fill_clip(
    data: bytes | memoryview, config: VideoConfig, out_CTHW: np.ndarray, *, max_pixels: int, random: ClipDraw | None
) -> None:
    """Write a clip of an encoded video into `out_CTHW`, uint8. The videos' frames may have `max_pixels`.

    `random` None: as in evaluation, the middle of a longer video, the middle crop, no flip, and short ones are held.
    DamagedSampleError for what can't be decoded, QuarantinedError for a short video that is to be dropped.
    """
    with open_video(data, max_pixels) as file:
        numbers_T = chosen(file, config, None if random is None else random.start)
        if random is not None and config.short == "drop" and len(numbers_T) < config.frames:
            raise QuarantinedError(f"{file.frames} frames are too few for a clip of transform.frames={config.frames}")
        spatial, at = None if random is None else random.frame, 0
        distinct = sorted(set(numbers_T))
        for number, pixels_HWC in zip(distinct, file.read(distinct, config), strict=True):
            frame_HWC = out_CTHW[:, at].transpose(1, 2, 0)
            if file.hdr and config.fit == "pad":
                to_sdr(pixels_HWC, file.hdr)  # without the background
            apply(pixels_HWC, config, spatial, frame_HWC)
            if file.hdr and config.fit != "pad":
                to_sdr(frame_HWC, file.hdr)  # fewer pixels
            more = numbers_T.count(number)
            out_CTHW[:, at + 1 : at + more] = out_CTHW[:, at : at + 1]
            at += more
        out_CTHW[:, at:] = out_CTHW[:, at - 1 : at]


def chosen(file: VideoFile, config: VideoConfig, draw: float | None) -> list[int]:
    """The frames of a clip, ascending; fewer than T where the video is too short, but at least one.

    `draw` in [0, 1) is the random number of the start; None, or random_start=false: the clip's middle is the video's.
    """
    by_time = config.frame_rate is not None
    starts = _starts_in_time(file, config) if by_time else file.frames - (config.frames - 1) * config.stride
    random = draw is not None and config.random_start
    first = (int(starts * draw) if random and draw is not None else (starts - 1) // 2) if starts > 0 else 0
    if by_time:
        return shown_at(file.times, first, config.frames, config.frame_rate or 1.0)
    return list(range(first, min(file.frames, first + config.frames * config.stride), config.stride))[: config.frames]


def _starts_in_time(file: VideoFile, config: VideoConfig) -> int:
    """How many of the first frames leave time enough for a clip."""
    assert config.frame_rate is not None
    times = file.times
    seconds = (config.frames - 1) / config.frame_rate + _late(times, config.frame_rate)
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
