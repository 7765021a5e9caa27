# Made from stage1_tokenizer.prepare of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import Tensor
import torch
from collections.abc import Sequence
from typing import Any
from .data_transforms import to_uint8
from .data_transforms import to_float
from .data_decode import pixels_of
from .data_decode import DamagedSampleError
import numpy as np
from .data_transforms import apply


def as_batch(pictures: Pictures, transform: TransformConfig | None) -> Tensor:
    """x_BCHW of pictures; PIL pictures are prepared by `transform`, as in training. ValueError for anything else."""
    if isinstance(pictures, Tensor):
        return pictures
    several = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    if several and all(isinstance(picture, Tensor) for picture in several):
        return stacked(several, "pictures")
    if not several or not all(hasattr(picture, "getexif") for picture in several):
        found = ", ".join(sorted({type(picture).__name__ for picture in several})) or "nothing"
        raise ValueError(f"pictures are {found}: give a float tensor, a PIL picture, or a list of one kind of them")
    if transform is None:
        raise ValueError("this tokenizer has no transform, so it can't prepare PIL pictures: give tensors in [-1, 1]")
    return to_float(torch.stack([_prepared(picture, transform) for picture in several]))


def _prepared(picture: Any, transform: TransformConfig) -> Tensor:
    """uint8 (C, H, W) of a PIL picture, as in evaluation."""
    try:
        pixels_HWC = pixels_of(picture, transform)
    except (DamagedSampleError, OSError, SyntaxError) as error:
        raise ValueError(f"a picture can't be used ({error}): convert it to RGB, 8 bits") from error
    return transformed(pixels_HWC, transform)


def transformed(pixels_HWC: np.ndarray, transform: TransformConfig) -> Tensor:
    """uint8 (C, H, W) of a decoded picture, as in evaluation."""
    out_CHW = np.empty((transform.channels, transform.size, transform.size), np.uint8)
    apply(pixels_HWC, transform, None, out_CHW.transpose(1, 2, 0))
    return torch.from_numpy(out_CHW)


def stacked(tensors: Tensor | Sequence[Any], what: str) -> Tensor:
    """One tensor of a list of tensors of one shape; a tensor stays. ValueError for anything else."""
    if isinstance(tensors, Tensor):
        return tensors
    if not isinstance(tensors, (list, tuple)) or not tensors or not all(isinstance(each, Tensor) for each in tensors):
        raise ValueError(f"{what} are of type {type(tensors).__name__}: give a tensor or a list of tensors")
    shapes = sorted({tuple(each.shape) for each in tensors})
    if len(shapes) > 1:
        raise ValueError(f"{what} of shapes {', '.join(map(str, shapes))} don't fit into one batch: give each its own")
    return torch.stack(list(tensors))


def to_pil(x_BCHW: Tensor) -> list[Any]:
    """PIL pictures (RGB or L) of floats in [-1, 1], (B, C, H, W) with 1 or 3 channels, else ValueError."""
    try:
        from PIL import Image
    except ImportError:
        pass

    if x_BCHW.ndim != 4 or x_BCHW.shape[1] not in (1, 3):
        raise ValueError(f"{tuple(x_BCHW.shape)} are no pictures: give (B, C, H, W) with 1 or 3 channels")
    pixels_BHWC = to_uint8(x_BCHW).cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels) for pixels in pixels_BHWC]
