"""The residual discriminator of StyleGAN2: one logit for a whole picture.

Legend: B batch, C channels, H W pixels, G pictures of a group, M groups.
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
"""Most channels of a layer, where the first has fewer."""

LAST = 4
"""Side of the grid that the last layers see."""

BINOMIAL = (1, 3, 3, 1)


def _activate(h: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(h, 0.2) * math.sqrt(2)


class GroupDeviation(nn.Module):
    """One more channel: how much the pictures of a group differ. (Karras et al. 2018, section 3)

    A group are `size` neighbours in the batch, so that where each rank's part holds whole groups, several ranks see
    the groups that one would see on the same global batch.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C + 1, H, W): deviations over a group, averaged. B = M·G or ValueError."""
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
    """(two convolutions + a linear way past them)/√2 at half the resolution. (Karras et al. 2020, section 4.1)"""

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
    """`layers` blocks, each of which halves the picture; widths double up to 512; then a 4×4 grid to one logit.

    A grid that isn't 4×4 by then is averaged to it, so that pictures of any size fit. (Karras et al. 2020, section 4)
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
