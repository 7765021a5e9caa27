"""The multi-period discriminator (HiFi-GAN: Kong et al. 2020, section 2.3), as in DAC.

Legend: B batch, C channels, T samples, P period, L = T/P rows.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.sound_layers import convolution2d
from stage1_tokenizer.layers.spectrum import reflected

SLOPE = 0.1
"""Of the leaky ReLUs."""


class Period(nn.Module):
    """Every P-th sample as a column: strided convolutions along columns, none across.

    Widths grow fourfold to 32 times the first: 32, 128, 512, 1024, 1024.
    """

    def __init__(self, config: AdversarialConfig, in_channels: int, period: int):
        super().__init__()
        self.period = period
        widths = [in_channels, *(config.channels * factor for factor in (1, 4, 16, 32, 32))]
        strides = (3, 3, 3, 3, 1)
        self.layers = nn.ModuleList(
            convolution2d(config, inputs, outputs, (5, 1), (stride, 1))
            for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.logit = convolution2d(config, widths[-1], 1, (3, 1))

    def forward(self, x_BCT: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits (B, 1, L', P) and the five feature maps."""
        h_BCLP = reflected(x_BCT, 0, -x_BCT.shape[-1] % self.period).unflatten(-1, (-1, self.period))
        features = []
        for layer in self.layers:
            h_BCLP = F.leaky_relu(layer(h_BCLP), SLOPE)
            features.append(h_BCLP)
        return self.logit(h_BCLP), tuple(features)
