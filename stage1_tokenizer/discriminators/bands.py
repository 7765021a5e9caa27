"""The multi-resolution discriminator on bands of complex spectra (DAC: Kumar et al. 2023, section 3.4).

Legend: B batch, C channels, T samples, N frames, F frequencies.
"""

from __future__ import annotations

import itertools
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.sound_layers import convolution2d
from stage1_tokenizer.layers.spectrum import spectrum

SLOPE = 0.1
"""Of the leaky ReLUs."""

EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Where bands begin and end, as shares of the spectrum."""


class Resolution(nn.Module):
    """One window: each band has its own convolutions, then one convolution over all bands gives the logits."""

    def __init__(self, config: AdversarialConfig, in_channels: int, window: int):
        super().__init__()
        self.window = window
        places = [int(edge * (window // 2 + 1)) for edge in EDGES]
        self.bands = list(itertools.pairwise(places))
        width = config.channels

        def of_one_band() -> nn.ModuleList:
            first = convolution2d(config, 2 * in_channels, width, (3, 9))
            halving = [convolution2d(config, width, width, (3, 9), (1, 2)) for _ in range(3)]
            return nn.ModuleList([first, *halving, convolution2d(config, width, width, (3, 3))])

        self.layers = nn.ModuleList(of_one_band() for _ in self.bands)
        self.logit = convolution2d(config, width, 1, (3, 3))

    def forward(self, x_BCT: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits (B, 1, N, F') and the five feature maps of each band."""
        hop = self.window // 4
        pad = (self.window - hop) // 2
        z_BCFN = spectrum(x_BCT, self.window, hop, pad=(pad, pad + -x_BCT.shape[-1] % hop))
        h_BCNF = torch.cat([z_BCFN.real, z_BCFN.imag], 1).transpose(2, 3)
        features, ends = [], []
        for (first, last), band in zip(self.bands, self.layers, strict=True):
            h = h_BCNF[..., first:last]
            for layer in cast(nn.ModuleList, band):
                h = F.leaky_relu(layer(h), SLOPE)
                features.append(h)
            ends.append(h)
        return self.logit(torch.cat(ends, -1)), tuple(features)
