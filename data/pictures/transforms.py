"""What is done to a decoded picture: crop, resize, pad, flip; and to pixels on their way to the networks and back.

Shapes: B batch, C channels, H W pixels. Pixels are uint8 until they are on the device.
"""

import numpy as np
import torch

from data.pictures.config import FrameConfig
from data.pictures.geometry import Draw, crop_box, target_size

_KERNELS = {"bicubic": torch.ops.aten._upsample_bicubic2d_aa.out, "area": torch.ops.aten._upsample_bilinear2d_aa.out}


def apply(picture_HWC: np.ndarray, config: FrameConfig, random: Draw | None, out_HWC: np.ndarray) -> None:
    """Crop, resize, pad and flip `picture_HWC` (uint8, config.channels channels) into `out_HWC`.

    `random` None: as in evaluation, the middle crop and no flip. Fastest where `out_HWC` is a view of planes (C, H, W):
    the resized picture is written to them directly.
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


def _resize(picture_HWC: np.ndarray, box: tuple[int, int, int, int], out_HWC: np.ndarray, resize: str) -> None:
    """Antialiased, as PIL does it (at most 2 of 255 beside PIL's result on the same square), in half PIL's time.

    What torch.nn.functional.interpolate(antialias=True) computes, but into `out_HWC`, which must be contiguous planes.
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
