"""Normalisation layers of discriminators, the same on any number of ranks.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launch.ranks.reduce import differentiable_sum, world
from stage1_tokenizer.config.model import norm_groups
from stage1_tokenizer.layers.precision import at_least_float32


class BatchNorm(nn.Module):
    """Batch normalisation with the statistics of the global batch, also in evaluation: no running averages.

    Several processes compute the same as one on the same global batch (torch's SyncBatchNorm does not run on CPUs), and
    there are no buffers that DDP could overwrite between two forwards.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape; statistics in float32."""
        if world()[1] == 1:
            return F.batch_norm(h_BCHW, None, None, self.weight, self.bias, training=True, eps=self.eps)
        h = at_least_float32(h_BCHW)
        axes = [0, *range(2, h.ndim)]
        count = h.numel() // h.shape[1] * world()[1]
        shape = (1, -1, *[1] * (h.ndim - 2))
        mean_C = differentiable_sum(h.sum(axes)) / count
        centred = h - mean_C.view(shape)
        variance_C = differentiable_sum(centred.square().sum(axes)) / count
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        return (centred * scale_C.view(shape) + self.bias.view(shape)).to(h_BCHW.dtype)


def normalisation(kind: str, channels: int) -> nn.Module:
    """The layer that `loss.adversarial.norm` names: batch, group or none."""
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "group":
        return nn.GroupNorm(norm_groups(channels), channels)
    return nn.Identity()
