# Made from data.decode of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

import numpy as np
try:
    from PIL import Image
except ImportError:
    pass


_ORIENTATION = 0x0112


class DamagedSampleError(ValueError):
    """A sample that can't be used, and why."""


def pixels_of(image: Image.Image, config: TransformConfig) -> np.ndarray:
    """Pixels of a picture that PIL opened, as `decode_picture` gives them: uint8 (H, W, C).

    DamagedSampleError for pixels that are no 8 or 16 bits; what PIL raises where it can't decode them.
    """
    turn = image.getexif().get(_ORIENTATION, 1) if image.format != "GIF" else 1
    image.load()
    pixels = np.array(_eight_bit(image, config))  # A copy: torch warns of what can't be written to.
    return _turned(pixels if pixels.ndim == 3 else pixels[:, :, None], turn)


def _eight_bit(image: Image.Image, config: TransformConfig) -> Image.Image:
    """The picture in mode RGB or L, over the background where it is transparent."""
    mode = "RGB" if config.channels == 3 else "L"
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise DamagedSampleError("its pixels have more than 16 bits")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise DamagedSampleError("its pixels are floating-point numbers")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, (config.background,) * 3 + (255,))
        image = Image.alpha_composite(behind, image)
    return image if image.mode == mode else image.convert(mode)


def _turned(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """The picture upright, by its EXIF orientation (2 to 8; 1 and anything else is upright already)."""
    if orientation in (5, 6, 7, 8):
        pixels_HWC = pixels_HWC.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    return np.ascontiguousarray(pixels_HWC) if not pixels_HWC.flags["C_CONTIGUOUS"] else pixels_HWC
