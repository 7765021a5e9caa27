# Made from stage1_tokenizer.layers.convolution of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
import torch.nn.functional as F
from torch import Tensor


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
