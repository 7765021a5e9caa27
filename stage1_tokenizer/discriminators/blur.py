"""A low-pass filter against aliasing in strided layers. (Zhang 2019)

Legend: B batch, C channels, H W pixels, k width of the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Blur(nn.Module):
    """A separable depthwise filter over `dims` axes, with a stride.

    `taps` are normalised to sum 1; `padding` values are added on each side of each axis, reflected or zero.
    """

    def __init__(
        self, taps: Sequence[float], dims: int, *, stride: int, padding: int, mode: Literal["reflect", "constant"]
    ):
        super().__init__()
        tap_k = torch.tensor(taps) / sum(taps)
        self.kernel: Tensor
        self.register_buffer("kernel", reduce(lambda a, b: a[..., None] * b, [tap_k] * dims), persistent=False)
        self.stride, self.pads, self.mode = stride, (padding, padding) * dims, mode

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, (H + 2·padding − k)/stride + 1, …)."""
        channels = h_BCHW.shape[1]
        kernel = self.kernel.to(h_BCHW.dtype).expand(channels, 1, *self.kernel.shape)
        mode = "replicate" if self.mode == "reflect" and 1 in h_BCHW.shape[2:] else self.mode  # a single frame
        padded = F.pad(h_BCHW, self.pads, mode=mode)
        return _CONVOLVE[self.kernel.ndim](padded, kernel, stride=self.stride, groups=channels)
