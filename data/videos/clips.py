"""From a video file to a clip: frames become pixels of one size.

Shapes: C channels, T frames of the clip, N frames of the file, H W pixels.
"""

from dataclasses import dataclass

import numpy as np

from data.pictures.geometry import Draw
from data.pictures.transforms import apply
from data.shards.quarantine import QuarantinedError
from data.videos.choice import chosen
from data.videos.colours import to_sdr
from data.videos.config import VideoConfig
from data.videos.files import open_video


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
