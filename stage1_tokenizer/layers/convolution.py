"""Convolutions over 1, 2 or 3 spatial axes, and upsampling.

Legend: B batch, C channels (I in, O out), H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
LastLayer = Convolution | nn.ConvTranspose2d

CONVOLUTIONS: dict[int, type[Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""The convolution class for each number of spatial axes."""


def convolution(
    dims: int, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
) -> Convolution:
    """A convolution over `dims` spatial axes."""
    return CONVOLUTIONS[dims](inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)


class Upsample(nn.Module):
    """Doubles the resolution: nearest-neighbour interpolation, then a convolution of width 3."""

    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.conv = convolution(dims, channels, channels, 3, padding=1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(h_BCHW, scale_factor=2.0, mode="nearest"))


class ShuffleUpsample(nn.Module):
    """Doubles the resolution: a convolution of width 3, then depth to space."""

    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.conv = convolution(dims, channels, channels << dims, 3, padding=1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return depth_to_space(self.conv(h_BCHW), 2)


def depth_to_space(h_BCHW: Tensor, factor: int | Sequence[int]) -> Tensor:
    """Channels to pixels: (B, f·f·C, H, W) to (B, C, f·H, f·W); row and column vary slower than C.

    `factor` may be one for each axis.
    """
    dims = h_BCHW.ndim - 2
    factors = [factor] * dims if isinstance(factor, int) else list(factor)
    parts = h_BCHW.unflatten(1, (*factors, -1))  # B, one axis of length f for each spatial one, C, H, W
    order = [0, dims + 1]
    for axis in range(dims):
        order += [dims + 2 + axis, 1 + axis]
    sizes = [each * size for each, size in zip(factors, h_BCHW.shape[2:], strict=True)]
    return parts.permute(order).reshape(len(h_BCHW), -1, *sizes)
