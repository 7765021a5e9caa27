"""Clips as they are shown, animated WebP without loss or mp4, and back. Shapes: C channels, T frames, H W pixels."""

import io
from typing import Literal

import numpy as np
from PIL import Image

from data.videos.convert import encode

RATE = 8.0
"""Frames a second at which clips are shown that have no rate."""


def film(x_CTHW: np.ndarray, rate: float | None, form: Literal["webp", "mp4"] = "webp") -> bytes:
    """A uint8 clip with 1 or 3 channels; as mp4, with loss, odd sides are repeated once to be even."""
    if form == "mp4":
        height, width = x_CTHW.shape[2:]
        x_CTHW = np.pad(x_CTHW, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    frames_THWC = np.ascontiguousarray(x_CTHW.transpose(1, 2, 3, 0))
    return encode(frames_THWC, [1 / (rate or RATE)] * len(frames_THWC), form)


def frames_of(contents: bytes, rate: float | None, channels: int, frames: int) -> np.ndarray:
    """The clip x_CTHW of so many frames that `film` was given for a WebP; they are counted by their times.

    WebP keeps equal neighbours as one frame that is shown for longer, and of a clip in which nothing moves a frame
    without a time: the last one is held to the end.
    """
    each, found = 1000 / (rate or RATE), list[np.ndarray]()
    with Image.open(io.BytesIO(contents)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels_HWC = np.atleast_3d(np.asarray(image.convert("L" if channels == 1 else "RGB")))
            image.load()
            found += [pixels_HWC.transpose(2, 0, 1)] * max(1, round(image.info.get("duration", each) / each))
    found += [found[-1]] * (frames - len(found))
    return np.stack(found[:frames], axis=1)
