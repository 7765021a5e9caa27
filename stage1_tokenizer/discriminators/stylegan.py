"""The residual discriminator of StyleGAN2: one logit for the whole picture.

Legend: B batch, C channels, H W pixels, G pictures in a group, M groups.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.blur import Blur
from stage1_tokenizer.discriminators.weight_norms import scaled
from stage1_tokenizer.layers.convolution import convolution
from stage1_tokenizer.layers.precision import at_least_float32

WIDEST = 512
"""Maximum channels of a layer, unless the first has more."""

LAST = 4
"""Side of the grid before the last layers."""

BINOMIAL = (1, 3, 3, 1)


def _activate(h: Tensor) -> Tensor:
    """Leaky ReLU, scaled to preserve the variance."""
    return F.leaky_relu(h, 0.2) * math.sqrt(2)


class GroupDeviation(nn.Module):
    """Minibatch standard deviation as an additional channel. (Karras et al. 2018, section 3)

    A group is `size` neighbours in the batch: if the batch of each rank has whole groups, several ranks have the same
    groups as one rank on the same global batch.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C + 1, H, W): the mean deviation over a group. ValueError unless B = M·G."""
        if len(h_BCHW) % self.size:
            raise ValueError(
                f"loss.adversarial.group={self.size} does not divide the {len(h_BCHW)} pictures of this rank: set it "
                "to a divisor of them, or to 1 for no groups"
            )
        h_MGCHW = at_least_float32(h_BCHW).unflatten(0, (-1, self.size))
        deviation_M = (h_MGCHW.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        deviation_B = deviation_M.repeat_interleave(self.size).to(h_BCHW.dtype)
        return torch.cat([h_BCHW, deviation_B.view(-1, 1, 1, 1).expand(-1, 1, *h_BCHW.shape[2:])], 1)


class Block(nn.Module):
    """(two convolutions + a linear shortcut)/√2, halving the resolution. (Karras et al. 2020, section 4.1)"""

    def __init__(self, inputs: int, outputs: int, spectral: bool):
        super().__init__()
        self.conv1 = convolution(2, inputs, inputs, 3, padding=1)
        self.blur = Blur(BINOMIAL, 2, stride=1, padding=2, mode="constant")
        self.conv2 = convolution(2, inputs, outputs, 3, stride=2)
        self.halve = Blur(BINOMIAL, 2, stride=2, padding=1, mode="constant")
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)
        for layer in (self.conv1, self.conv2, self.skip):
            scaled(layer, spectral=spectral)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/2, W/2)."""
        h = _activate(self.conv2(self.blur(_activate(self.conv1(h_BCHW)))))
        return (h + self.skip(self.halve(h_BCHW))) / math.sqrt(2)


class ResidualDiscriminator(nn.Module):
    """`layers` blocks that each halve the resolution, with widths doubling up to 512; then a 4×4 grid to one logit.

    A grid of another size is average-pooled to 4×4, so that pictures of any size fit. (Karras et al. 2020, section 4)
    """

    def __init__(self, config: AdversarialConfig, in_channels: int):
        super().__init__()
        spectral = config.spectral_norm
        widest = max(WIDEST, config.channels)
        widths = [min(config.channels * 2**number, widest) for number in range(config.layers + 1)]
        self.conv_in = convolution(2, in_channels, widths[0], 1)
        self.blocks = nn.Sequential(*(Block(*pair, spectral) for pair in itertools.pairwise(widths)))
        self.deviation = GroupDeviation(config.group) if config.group > 1 else nn.Identity()
        self.conv_out = convolution(2, widths[-1] + (config.group > 1), widths[-1], 3, padding=1)
        self.linear = nn.Linear(widths[-1] * LAST**2, widths[-1])
        self.logit = nn.Linear(widths[-1], 1)
        for layer in (self.conv_in, self.conv_out, self.linear, self.logit):
            scaled(layer, spectral=spectral)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, 1): positive for real ones."""
        h = self.blocks(_activate(self.conv_in(x_BCHW)))
        h = _activate(self.conv_out(self.deviation(h)))
        if h.shape[2:] != (LAST, LAST):
            h = F.adaptive_avg_pool2d(h, LAST)
        return self.logit(_activate(self.linear(h.flatten(1))))
