"""The patch discriminator of Isola et al. 2017: one logit for each patch of a picture.

Legend: B batch, C channels, H W pixels, h w grid of patches.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config import AdversarialConfig
from stage1_tokenizer.convolution import CONVOLUTIONS, laid_out
from stage1_tokenizer.model import norm_groups
from stage1_tokenizer.reduce import at_least_float32, differentiable_sum, world


class BatchNorm(nn.Module):
    """Batch normalisation by the global batch of all ranks, always: there are no running averages.

    So several processes compute what one does on the same global batch (torch's SyncBatchNorm does not run on CPUs),
    and there are no buffers that DDP could overwrite between two forwards.
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


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "group":
        return nn.GroupNorm(norm_groups(channels), channels)
    return nn.Identity()


class Discriminator(nn.Module):
    """Convolutions of width 4, `layers` of them with stride 2, with leaky ReLUs; keys as in taming-transformers."""

    def __init__(self, config: AdversarialConfig, in_channels: int, spatial_dims: int = 2):
        super().__init__()
        conv = CONVOLUTIONS[spatial_dims]
        widths = [config.channels * min(2**number, 8) for number in range(config.layers + 1)]
        parts: list[nn.Module] = [conv(in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
            stride = 2 if number < config.layers else 1
            parts.append(conv(inputs, outputs, 4, stride, 1, bias=config.norm != "batch"))
            parts += [_norm(config.norm, outputs), nn.LeakyReLU(0.2, inplace=True)]
        parts.append(conv(widths[-1], 1, 4, 1, 1))
        self.main = nn.Sequential(*parts)
        for part in self.main:
            if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.normal_(part.weight, 0.0, 0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif isinstance(part, BatchNorm):
                nn.init.normal_(part.weight, 1.0, 0.02)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of patches (B, 1, h, w): positive for real ones."""
        h = self.main[0](x_BCHW)
        return self.main[1:](laid_out(h, h.shape[1]))
