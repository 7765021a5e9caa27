"""The patch discriminator (Isola et al. 2017): one logit for each patch of a picture.

Legend: B batch, C channels, H W pixels, h w grid of patches.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.blur import Blur
from stage1_tokenizer.discriminators.norms import BatchNorm, normalisation
from stage1_tokenizer.discriminators.weight_norms import spectrally_normal
from stage1_tokenizer.layers.convolution import CONVOLUTIONS


class Discriminator(nn.Module):
    """4x4 convolutions, `layers` of them with stride 2, and leaky ReLUs; weight names as in taming-transformers.

    With `blur`, those convolutions have stride 1, and a 3x3 low-pass filter after their ReLU has stride 2 (Zhang 2019);
    the output grid stays the same. Along time, kernels are 3 wide, so that clips of any length fit, pictures too.
    """

    def __init__(self, config: AdversarialConfig, in_channels: int, spatial_dims: int = 2):
        super().__init__()
        conv, strided = CONVOLUTIONS[spatial_dims], 1 if config.blur else 2
        kernel: Any = (3, 4, 4) if spatial_dims == 3 else 4
        widths = [config.channels * min(2**number, 8) for number in range(config.layers + 1)]
        parts: list[nn.Module] = [
            conv(in_channels, widths[0], kernel, strided, 1),
            _activation(config, spatial_dims, 2),
        ]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
            stride = 2 if number < config.layers else 1
            parts.append(conv(inputs, outputs, kernel, min(stride, strided), 1, bias=config.norm != "batch"))
            parts += [normalisation(config.norm, outputs), _activation(config, spatial_dims, stride)]
        parts.append(conv(widths[-1], 1, kernel, 1, 1))
        self.main = nn.Sequential(*parts)
        for part in self.main:
            if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.normal_(part.weight, 0.0, 0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
                if config.spectral_norm:
                    spectrally_normal(part)
            elif isinstance(part, BatchNorm):
                nn.init.normal_(part.weight, 1.0, 0.02)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of patches (B, 1, h, w): positive for real ones."""
        return self.main(x_BCHW)


def _activation(config: AdversarialConfig, dims: int, stride: int) -> nn.Module:
    """A leaky ReLU; with `blur`, then the filter that takes over the stride of the convolution."""
    relu = nn.LeakyReLU(0.2, inplace=True)
    if not config.blur or stride == 1:
        return relu
    return nn.Sequential(relu, Blur([1, 2, 1], dims, stride=2, padding=1, mode="reflect"))
