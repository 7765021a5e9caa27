"""A discriminator on the features of a frozen network (Sauer et al. 2021; with a DINO transformer, Sauer et al. 2023).

Legend: B batch, C channels, H W pixels, N patches, T = N + 1 tokens, D width of the transformer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.dino_vit import FrozenViT
from stage1_tokenizer.discriminators.norms import normalisation
from stage1_tokenizer.discriminators.weight_norms import spectrally_normal
from stage1_tokenizer.layers.precision import at_least_float32

STAGES = 4
"""Evenly spaced layers of the transformer with a head, besides its input."""

REACH = 9
"""Kernel width of a head, in patches."""


class _Part(nn.Sequential):
    """Circular convolution along the sequence of patches, norm, leaky ReLU."""

    def __init__(self, config: AdversarialConfig, channels: int, kernel: int):
        conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, padding_mode="circular")
        if config.spectral_norm:
            spectrally_normal(conv)
        super().__init__(conv, normalisation(config.norm, channels), nn.LeakyReLU(0.2, inplace=True))


class Head(nn.Module):
    """Features of patches to one logit for each."""

    def __init__(self, config: AdversarialConfig, channels: int):
        super().__init__()
        self.each = _Part(config, channels, 1)
        self.near = _Part(config, channels, REACH)
        self.logit = nn.Conv1d(channels, 1, 1)
        if config.spectral_norm:
            spectrally_normal(self.logit)

    def forward(self, h_BDN: Tensor) -> Tensor:
        """(B, D, N) to (B, N)."""
        h = self.each(h_BDN)
        return self.logit((h + self.near(h)) / math.sqrt(2)).squeeze(1)


class ProjectedDiscriminator(nn.Module):
    """A head for each of five depths of the frozen transformer; only the heads are trained and saved."""

    def __init__(self, config: AdversarialConfig, vit: FrozenViT):
        super().__init__()
        self.vit = vit
        self.resize = config.resize
        self.after = [-1, *sorted({vit.depth * stage // STAGES - 1 for stage in range(1, STAGES + 1)} - {-1})]
        self.heads = nn.ModuleList(Head(config, vit.width) for _ in self.after)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of patches at all depths (B, 5·N): positive for real ones. Pictures have 1 or 3 channels."""
        x = at_least_float32(x_BCHW).expand(-1, 3, -1, -1)
        if self.resize and x.shape[2:] != (self.resize, self.resize):
            x = F.interpolate(x, (self.resize, self.resize), mode="bicubic", antialias=True)
        logits = []
        for head, h_BTD in zip(self.heads, self.vit(x, self.after), strict=True):
            h_BND = h_BTD[:, 1:] + h_BTD[:, :1]  # each patch plus the class token
            logits.append(head(h_BND.transpose(1, 2)))
        return torch.cat(logits, 1)
