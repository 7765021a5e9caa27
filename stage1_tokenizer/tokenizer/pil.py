"""PIL pictures to the tensors that a tokenizer takes, and back.

Legend: B batch, C channels, H W pixels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.pictures.config import FrameConfig
from data.pictures.decode import pixels_of
from data.pictures.transforms import apply, to_float, to_uint8
from data.shards.sample import DamagedSampleError
from stage1_tokenizer.tokenizer.codec import Pictures, stacked


def as_batch(pictures: Pictures, transform: FrameConfig | None) -> Tensor:
    """Pictures as x_BCHW; PIL pictures are prepared by `transform`, as in training. ValueError for anything else."""
    if isinstance(pictures, Tensor):
        return pictures
    several = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    if several and all(isinstance(picture, Tensor) for picture in several):
        return stacked(several, "pictures")
    if not several or not all(hasattr(picture, "getexif") for picture in several):
        types = ", ".join(sorted({type(picture).__name__ for picture in several})) or "nothing"
        raise ValueError(f"pictures are {types}: give a float tensor, a PIL picture, or a list of one kind of them")
    if transform is None:
        raise ValueError("this tokenizer has no transform to prepare PIL pictures with: give tensors in [-1, 1]")
    return to_float(torch.stack([_prepared(picture, transform) for picture in several]))


def _prepared(picture: Any, transform: FrameConfig) -> Tensor:
    """uint8 (C, H, W) of a PIL picture, as in evaluation."""
    try:
        pixels_HWC = pixels_of(picture, transform)
    except (DamagedSampleError, OSError, SyntaxError) as error:
        raise ValueError(f"a picture can't be used ({error}): convert it to RGB, 8 bits") from error
    return transformed(pixels_HWC, transform)


def transformed(pixels_HWC: np.ndarray, transform: FrameConfig) -> Tensor:
    """uint8 (C, H, W) of a decoded picture, as in evaluation."""
    out_CHW = np.empty((transform.channels, transform.size, transform.size), np.uint8)
    apply(pixels_HWC, transform, None, out_CHW.transpose(1, 2, 0))
    return torch.from_numpy(out_CHW)


def to_pil(x_BCHW: Tensor) -> list[Any]:
    """PIL pictures (RGB or L) of floats in [-1, 1], (B, C, H, W) with 1 or 3 channels, else ValueError."""
    from PIL import Image

    if x_BCHW.ndim != 4 or x_BCHW.shape[1] not in (1, 3):
        raise ValueError(f"{tuple(x_BCHW.shape)} is not a batch of pictures: give (B, C, H, W) with 1 or 3 channels")
    pixels_BHWC = to_uint8(x_BCHW).cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels) for pixels in pixels_BHWC]
