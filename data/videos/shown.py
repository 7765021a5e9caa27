"""Clips as they are shown, animated WebP without loss or mp4, and back. Shapes: C channels, T frames, H W pixels."""

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageSequence

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


def frames_of(contents: bytes, channels: int) -> np.ndarray:
    """The clip x_CTHW that `film` was given for a WebP."""
    with Image.open(io.BytesIO(contents)) as image:
        frames = [frame.convert("L" if channels == 1 else "RGB") for frame in ImageSequence.Iterator(image)]
    return np.stack([np.atleast_3d(np.asarray(frame)).transpose(2, 0, 1) for frame in frames], axis=1)
