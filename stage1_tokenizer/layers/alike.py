"""The layers of a convolutional network whose axes are all treated alike.

`layers.video` has the same for networks that treat time apart from height and width.
Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.layers.convolution import ShuffleUpsample, Upsample, convolution
from stage1_tokenizer.layers.norm import Norm

Down: TypeAlias = Literal["behind", "around", "pool"]
Up: TypeAlias = Literal["nearest", "shuffle"]

_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Layers:
    """Builds layers for 1, 2 or 3 axes."""

    by_frame = False
    """Whether norms and attention are of each frame by itself."""

    def __init__(self, dims: int):
        self.dims = dims

    def convolution(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Module:
        """A convolution that keeps the size, zeros around it."""
        return convolution(self.dims, inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def outermost(self, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
        """The first or last convolution of a network, of width 3."""
        return self.convolution(inputs, outputs, 3, bias=bias)

    def norm(self, channels: int, *, swish: bool = True) -> nn.Module:
        """A group normalization."""
        return Norm(channels, swish=swish)

    def attention(self, block: nn.Module, channels: int) -> nn.Module:
        """What follows a residual block where there is attention: `block`, which is attention, and more."""
        return block

    def downsample(self, number: int, channels: int, how: Down) -> nn.Module:
        """What halves the resolution after level `number`."""
        return Downsample(self.dims, channels, how)

    def upsample(self, number: int, channels: int, how: Up) -> nn.Module:
        """What undoes `downsample(number)` in the decoder."""
        return (ShuffleUpsample if how == "shuffle" else Upsample)(self.dims, channels)


class Downsample(nn.Module):
    """Halves the resolution: average pooling, or a convolution of width 3 and stride 2.

    Zeros are behind what it sees (right and bottom), or around it.
    """

    def __init__(self, dims: int, channels: int, how: Down):
        super().__init__()
        self.pool = _POOLS[dims]
        self.pad = (0, 1) * dims if how == "behind" else ()
        self.conv: nn.Module | None = None
        if how != "pool":
            self.conv = convolution(dims, channels, channels, 3, stride=2, padding=int(how == "around"))

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        if self.conv is None:
            return self.pool(h_BCHW, 2)
        return self.conv(F.pad(h_BCHW, self.pad) if self.pad else h_BCHW)
