"""MaskBit's discriminator for VQGAN+: one logit for each of 16×16 regions. (Weber et al. 2024)

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.blur import Blur
from stage1_tokenizer.discriminators.norms import normalisation
from stage1_tokenizer.discriminators.weight_norms import spectrally_normal

REGIONS = 16
"""Regions along each axis."""


class MaskbitDiscriminator(nn.Module):
    """A 5x5 convolution; `layers` times a 3x3 one, a low-pass filter of stride 2 and a norm; pooling; two more.

    Widths are `channels` times 1, 1, 2, 4, … The filter has the taps 1, 3, 3, 1; published are 4 layers of 128
    channels with group norms.
    """

    def __init__(self, config: AdversarialConfig, in_channels: int):
        super().__init__()
        width = config.channels
        parts: list[nn.Module] = [nn.Conv2d(in_channels, width, 5, padding=2), _leaky()]
        for number in range(config.layers):
            inputs, width = width, config.channels << number
            parts.append(nn.Conv2d(inputs, width, 3, padding=1))
            parts.append(Blur([1, 3, 3, 1], 2, stride=2, padding=1, mode="constant"))
            parts += [normalisation(config.norm, width), _leaky()]
        parts.append(nn.AdaptiveMaxPool2d(REGIONS))
        parts += [nn.Conv2d(width, width, 1), _leaky(), nn.Conv2d(width, 1, 5, padding=2)]
        self.main = nn.Sequential(*parts)
        if config.spectral_norm:
            for part in self.main:
                if isinstance(part, nn.Conv2d):
                    spectrally_normal(part)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, 1, 16, 16): positive for real ones."""
        return self.main(x_BCHW)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1, inplace=True)
