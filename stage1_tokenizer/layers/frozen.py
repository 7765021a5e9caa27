"""A convolution without trainable weights.

Legend: B batch, C channels (I in, O out), H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FrozenConv2d(nn.Module):
    """relu(conv(x) + bias). Weights are non-persistent buffers: not in state_dict(), without gradients."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight_OIHW: Tensor, bias_O: Tensor, *, stride: int = 1, padding: int = 0):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.register_buffer("weight", weight_OIHW.contiguous(), persistent=False)
        self.register_buffer("bias", bias_O.contiguous(), persistent=False)

    def forward(self, x_BIHW: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H', W')."""
        return F.conv2d(x_BIHW, self.weight, self.bias, self.stride, self.padding).relu_()
