# Made from data.transforms of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

import torch
import numpy as np
from typing import Literal
from dataclasses import asdict
from dataclasses import fields
from dataclasses import dataclass
from typing import Any


_KERNELS = {"bicubic": torch.ops.aten._upsample_bicubic2d_aa.out, "area": torch.ops.aten._upsample_bilinear2d_aa.out}


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """How a picture of any size and mode becomes size×size pixels with `channels` channels."""

    size: int = 256
    """Pixels of each side of the result."""
    channels: int = 3
    """3 for RGB, 1 for grey."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """crop: the largest square of the picture; pad: all of it, shrunk if it is too large, never enlarged, with
    `background` around it; stretch: all of it, whatever its shape."""
    flip: bool = False
    """In training, mirror left to right at random."""
    random_crop: bool = False
    """In training, with fit=crop, place the square at random; otherwise it is in the middle."""
    min_scale: float = 1.0
    """In training, with random_crop, the smallest side of the square, as a share of the largest possible one."""
    resize: Literal["bicubic", "area"] = "bicubic"
    """bicubic: antialiased, as PIL's; area: the mean over each target pixel's area (triangle weights), from a JPEG
    decoded at a half, a quarter or an eighth of its size where the target is that much smaller. Faster."""
    background: int = 255
    """Grey value, 0 to 255, behind transparent pixels and around a padded picture."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key, the rule and the value."""
        if self.size < 1:
            raise ValueError(f"transform.size={self.size} is less than 1: set the side of the picture in pixels")
        if self.channels not in (1, 3):
            raise ValueError(f"transform.channels={self.channels} is neither 1 (grey) nor 3 (RGB): set one of the two")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"transform.min_scale={self.min_scale} is not in (0, 1]: set 1 for the largest square")
        if self.min_scale < 1 and not self.random_crop:
            raise ValueError("transform.min_scale below 1 needs transform.random_crop=true: set it, or min_scale to 1")
        if self.random_crop and self.fit != "crop":
            raise ValueError(f"transform.random_crop=true needs transform.fit=crop, not {self.fit}: change one of them")
        if not 0 <= self.background <= 255:
            raise ValueError(f"transform.background={self.background} is not in 0..255: set 255 for white")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: releases and code indexes carry them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TransformConfig:
        """The transform that `to_dict` described; ValueError for a key it doesn't know."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"transform has unknown keys {', '.join(unknown)}: written by a newer version?")
        return cls(**values)


def crop_box(width: int, height: int, config: TransformConfig, random: Draw | None) -> tuple[int, int, int, int]:
    """Left, upper, right, lower edge of the part of a width×height picture that is resized to the target."""
    if config.fit != "crop":
        return 0, 0, width, height
    side = min(width, height)
    if random is None or not config.random_crop:
        left, upper = (width - side) // 2, (height - side) // 2
    else:
        side = max(1, round(side * (config.min_scale + (1 - config.min_scale) * random.scale)))
        left, upper = int((width - side + 1) * random.x), int((height - side + 1) * random.y)
    return left, upper, left + side, upper + side


def apply(picture_HWC: np.ndarray, config: TransformConfig, random: Draw | None, out_HWC: np.ndarray) -> None:
    """Crop, resize, pad and flip `picture_HWC` (uint8, config.channels channels) into `out_HWC`.

    `random` None: as in evaluation, the middle crop and no flip. Fastest where `out_HWC` is a view of memory whose
    channels are planes (C, H, W): the resized picture is written to it directly.
    """
    height, width = picture_HWC.shape[:2]
    box = crop_box(width, height, config, random)
    target_w, target_h = target_size(width, height, config)
    if (target_w, target_h) != (config.size, config.size):
        out_HWC.fill(config.background)
        left, upper = (config.size - target_w) // 2, (config.size - target_h) // 2
        out_HWC = out_HWC[upper : upper + target_h, left : left + target_w]
    flipped = config.flip and random is not None and random.flip < 0.5
    if (box[2] - box[0], box[3] - box[1]) == (target_w, target_h):
        done_HWC = picture_HWC[box[1] : box[3], box[0] : box[2]]
    elif not flipped and out_HWC.transpose(2, 0, 1).flags["C_CONTIGUOUS"]:
        _resize(picture_HWC, box, out_HWC, config.resize)
        return
    else:
        done_HWC = np.empty((picture_HWC.shape[2], target_h, target_w), np.uint8).transpose(1, 2, 0)
        _resize(picture_HWC, box, done_HWC, config.resize)
    np.copyto(out_HWC, done_HWC[:, ::-1] if flipped else done_HWC)


def target_size(width: int, height: int, config: TransformConfig) -> tuple[int, int]:
    """Width and height that a width×height picture has in the result, before padding."""
    if config.fit != "pad":
        return config.size, config.size
    scale = min(1.0, config.size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resize(picture_HWC: np.ndarray, box: tuple[int, int, int, int], out_HWC: np.ndarray, resize: str) -> None:
    """Antialiased, as PIL does it (at most 2 of 255 beside PIL's result on the same square), in half PIL's time.

    What torch.nn.functional.interpolate(antialias=True) computes, written straight to where it belongs: `out_HWC` must
    be contiguous planes.
    """
    square_HWC = torch.from_numpy(picture_HWC)[box[1] : box[3], box[0] : box[2]]
    planes_BCHW = torch.from_numpy(out_HWC.transpose(2, 0, 1))[None]
    size = out_HWC.shape[:2]
    _KERNELS[resize](square_HWC.permute(2, 0, 1)[None], size, False, None, None, out=planes_BCHW)


def to_float(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """uint8 pixels → x_BCHW, contiguous float32 in [-1, 1], on the device they are on: 0 is -1 and 255 is 1."""
    return pixels_BCHW.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1.0


def to_uint8(x_BCHW: torch.Tensor) -> torch.Tensor:
    """x_BCHW in [-1, 1] → the nearest uint8 pixels; values outside are clamped. Inverse of `to_float`."""
    return ((x_BCHW.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
