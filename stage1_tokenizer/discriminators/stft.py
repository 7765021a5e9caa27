"""The multi-scale STFT discriminator (EnCodec: Défossez et al. 2022, section 3.4).

Legend: B batch, C channels, T samples, N frames, F frequencies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.sound_layers import convolution2d
from stage1_tokenizer.layers.spectrum import spectrum

SLOPE = 0.3
"""Of the leaky ReLUs, as audiocraft trains it (the paper has 0.2)."""

DILATIONS = (1, 2, 4)
"""Along time, of the layers that halve the frequencies."""


class Scale(nn.Module):
    """One window: convolutions on real and imaginary part."""

    def __init__(self, config: AdversarialConfig, in_channels: int, window: int):
        super().__init__()
        self.window, width = window, config.channels
        self.layers = nn.ModuleList(
            [
                convolution2d(config, 2 * in_channels, width, (3, 9)),
                *(convolution2d(config, width, width, (3, 9), (1, 2), (dilation, 1)) for dilation in DILATIONS),
                convolution2d(config, width, width, (3, 3)),
            ]
        )
        self.logit = convolution2d(config, width, 1, (3, 3))

    def forward(self, x_BCT: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits (B, 1, N, F') and the five feature maps. Frames lie inside the signal; hop a quarter of the window."""
        z_BCFN = spectrum(x_BCT, self.window, pad=(0, 0)) / (self.window * 3 / 8) ** 0.5  # the root of Hann's energy
        h_BCNF = torch.cat([z_BCFN.real, z_BCFN.imag], 1).transpose(2, 3)
        features = []
        for layer in self.layers:
            h_BCNF = F.leaky_relu(layer(h_BCNF), SLOPE)
            features.append(h_BCNF)
        return self.logit(h_BCNF), tuple(features)
