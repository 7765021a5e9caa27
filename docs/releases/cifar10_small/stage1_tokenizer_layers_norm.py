# Made from stage1_tokenizer.layers.norm of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
from .stage1_tokenizer_config_model import norm_groups
import torch
from torch import Tensor
import torch.nn.functional as F


class Norm(nn.GroupNorm):
    """Group normalization with at most 32 groups (fewer if 32 does not divide the channels), by default with swish.

    Statistics are float32 under mixed precision. A group of a single value becomes its bias, in a batch of any size.
    """

    def __init__(self, channels: int, *, swish: bool = True):
        super().__init__(norm_groups(channels), channels, eps=1e-6)
        self.swish = swish

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape and type as the input."""
        normed_BCHW = group_norm(h_BCHW, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(normed_BCHW) if self.swish else normed_BCHW


def group_norm(
    h_BCHW: Tensor, groups: int, weight_C: Tensor | None = None, bias_C: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """torch's, without its refusal of a single picture whose groups have one value each."""
    return torch.group_norm(h_BCHW, groups, weight_C, bias_C, eps, torch.backends.cudnn.enabled)
