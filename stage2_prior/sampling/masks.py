"""A mask for inpainting: a black-and-white picture whose white parts are redrawn.

It lies on the prepared pictures if it is square, or on the given ones, and is then cropped or padded as they are, if it
has their size. What isn't black and white is refused, not guessed: colours, grey, transparency.

Shapes: H W pixels, C channels.
"""

from collections.abc import Set
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.pictures.config import TransformConfig
from data.pictures.decode import opened
from data.pictures.geometry import crop_box, target_size
from launch.command.cli import UserError, reason

MOST_GREY, MOST_COLOURED = 0.1, 0.001
"""Shares of the pixels that may be neither black nor white (soft edges), and coloured (a JPEG's noise)."""
BLACK, WHITE, COLOUR = 64, 191, 48
"""Highest value of black, lowest of white, and least difference between the channels of a colour."""


def read_mask(place: str, transform: TransformConfig, sizes: Set[tuple[int, int]]) -> Tensor:
    """The part of the prepared pictures to redraw, hole_HW bool; UserError for what is no mask.

    `sizes` are (width, height) of the given pictures, as far as they are known.
    """
    grey = _black_and_white(place)
    size = (grey.width, grey.height)
    if sizes == {size}:
        left, upper, right, lower = crop_box(*size, transform, None)
        target = target_size(*size, transform)
        page = Image.new("L", (transform.size, transform.size), 0)
        part = grey.crop((left, upper, right, lower)).resize(target, Image.Resampling.NEAREST)
        page.paste(part, ((transform.size - target[0]) // 2, (transform.size - target[1]) // 2))
    elif grey.width == grey.height:
        page = grey.resize((transform.size, transform.size), Image.Resampling.NEAREST)
    else:
        own = " or ".join(f"{width}×{height}" for width, height in sorted(sizes)[:3])
        given = f"that of the given pictures ({own})" if own else "for single pictures, theirs"
        raise UserError(
            f"mask={place} has {size[0]}×{size[1]} pixels: give it a square size, on the prepared pictures of "
            f"{transform.size}×{transform.size}, or {given}"
        )
    hole_HW = torch.from_numpy(np.array(page)) > 127
    if not hole_HW.any() or hole_HW.all():
        colour = "white" if hole_HW.any() else "black"
        raise UserError(f"mask={place} is {colour} in all of the prepared picture: {_WAYS[colour]}")
    return hole_HW


_WAYS = {
    "black": "nothing would be redrawn; paint the parts to redraw white",
    "white": "nothing would stay; paint the parts to keep black, or use stage2_prior.sample",
}


def _black_and_white(place: str) -> Image.Image:
    """The mask, upright, in mode L."""
    try:
        with opened(Path(place).read_bytes()) as mask:
            if (frames := getattr(mask, "n_frames", 1)) > 1:
                raise UserError(f"mask={place} has {frames} frames: give a single picture")
            image = ImageOps.exif_transpose(mask)
            image.load()
    except UserError:
        raise
    except OSError as error:
        why = error.strerror or "it is no picture in a known format, or damaged"
        raise UserError(f"mask={place} can't be read ({why}): give a black-and-white picture, such as a PNG") from error
    except Exception as error:  # PIL raises all kinds of exceptions on damaged input
        raise UserError(
            f"mask={place} can't be read ({reason(error)}): give a black-and-white picture, such as a PNG"
        ) from error
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UserError(f"mask={place} has transparent parts: fill them, with black what stays, else with white")
        image = image.convert("RGBA").convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        top = 255 if values.max() <= 255 else 65535
        image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
    return _checked(place, image)


def _checked(place: str, image: Image.Image) -> Image.Image:
    """The mask in mode L; UserError where it isn't black and white."""
    if image.mode not in ("1", "L"):
        pixels_HWC = np.asarray(image.convert("RGB")).astype(np.int16)
        coloured = float((pixels_HWC.max(-1) - pixels_HWC.min(-1) > COLOUR).mean())
        if coloured > MOST_COLOURED:
            raise UserError(
                f"mask={place} is in colour ({coloured:.0%} of its pixels): paint what stays black and what is redrawn "
                "white"
            )
    grey = image.convert("L")
    values_HW = np.asarray(grey)
    if 0 < values_HW.max() <= BLACK // 4 and len(np.unique(values_HW)) == 2:
        low, high = np.unique(values_HW).tolist()
        raise UserError(f"mask={place} holds only the values {low} and {high} of 255: save it with 0 and 255")
    between = float(((values_HW > BLACK) & (values_HW < WHITE)).mean())
    if between > MOST_GREY:
        raise UserError(
            f"mask={place} is no mask: {between:.0%} of its pixels are neither black (stays) nor white (is redrawn)"
        )
    return grey
