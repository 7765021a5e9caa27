"""Encoder and decoder without attention: the kind of MaskGIT and Open-MAGVIT2 (backbone=conv_plus).

MaskGIT's (Chang et al. 2022) is downsample=pool, upsample=nearest, adaptive_norm=false, shortcut=inner; Open-MAGVIT2's
(Luo et al. 2024, after Yu et al. 2024) is the default. Submodules have the names of the published checkpoints, with
`mid` for the middle blocks and `conv` for the resampling convolutions:

    encoder   conv_in  down.LEVEL.block.NUMBER  down.LEVEL.downsample.conv  mid.NUMBER  norm_out  conv_out (1x1)
    decoder   conv_in  mid.NUMBER  adaptive.LEVEL.{gamma,beta}  up.LEVEL.block.NUMBER  up.LEVEL.upsample.conv  norm_out
              conv_out; level 0 is the full resolution in both

Legend: B batch, C channels, H W pixels, h w latent grid, D latent channels; with other spatial_dims, HW stands for all
spatial axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig, norm_groups
from stage1_tokenizer.layers.alike import Down
from stage1_tokenizer.layers.norm import group_norm
from stage1_tokenizer.layers.precision import as_weights_of, at_least_float32
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.layers.video import clips_of, frames_of
from stage1_tokenizer.networks.along_time import ConvolutionalDecoder, ConvolutionalEncoder, layers_of, patched


class Block(Recomputable):
    """x + conv(swish(norm(conv(swish(norm(x)))))) without biases; a 1x1 convolution on x if the width changes.

    With shortcut=inner, the 1x1 convolution takes the second summand instead of x, which is then dropped.
    """

    def __init__(self, config: ModelConfig, inputs: int, outputs: int):
        super().__init__()
        layers, self.inner = layers_of(config), config.conv_plus.shortcut == "inner"
        self.norm1 = layers.norm(inputs)
        self.conv1 = layers.convolution(inputs, outputs, 3, bias=False)
        self.norm2 = layers.norm(outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = layers.convolution(outputs, outputs, 3, bias=False)
        self.nin_shortcut: nn.Module | None = None
        if inputs != outputs:
            self.nin_shortcut = layers.convolution(outputs if self.inner else inputs, outputs, 1, bias=False)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        inner = self.conv1(self.norm1(h_BCHW))
        inner = self.conv2(self.dropout(self.norm2(inner)))
        if self.nin_shortcut is None:
            return h_BCHW + inner
        return inner + self.nin_shortcut(inner if self.inner else h_BCHW)


class AdaptiveNorm(nn.Module):
    """gamma(σ)·norm(h) + beta(μ): σ and μ are standard deviation and mean of each latent channel over the grid."""

    def __init__(self, latent_channels: int, channels: int):
        super().__init__()
        self.groups = norm_groups(channels)
        self.gamma = nn.Linear(latent_channels, channels)
        self.beta = nn.Linear(latent_channels, channels)

    def forward(self, h_BCHW: Tensor, z_BDhw: Tensor) -> Tensor:
        """Same shape as h; statistics are at least float32."""
        shape = (*h_BCHW.shape[:2], *[1] * (h_BCHW.ndim - 2))
        gamma, beta = (given_BC.view(shape) for given_BC in self.gamma_and_beta(z_BDhw))
        return gamma * group_norm(h_BCHW, self.groups) + beta

    def gamma_and_beta(self, z_BDhw: Tensor) -> tuple[Tensor, Tensor]:
        """Of each picture and channel, (B, C)."""
        z_BDN = at_least_float32(z_BDhw).flatten(2)
        # As published: N - 1 in the denominator, epsilon inside the root; a single position has deviation 0.
        deviation_BD = (z_BDN.var(2, correction=min(1, z_BDN.shape[2] - 1)) + 1e-6).sqrt()
        gamma_BC = self.gamma(as_weights_of(self.gamma, deviation_BD))
        return gamma_BC, self.beta(as_weights_of(self.beta, z_BDN.mean(2)))


class FrameAdaptiveNorm(AdaptiveNorm):
    """An AdaptiveNorm with statistics of each frame, and of the latents of its time, which `each` frames share."""

    def __init__(self, latent_channels: int, channels: int, each: int):
        super().__init__(latent_channels, channels)
        self.each = each

    def forward(self, h_BCTHW: Tensor, z_BDthw: Tensor) -> Tensor:
        """Same shape as h."""
        (batch, _, frames), latents = h_BCTHW.shape[:3], z_BDthw.shape[2]
        given = (one.view(batch, latents, -1) for one in self.gamma_and_beta(frames_of(z_BDthw)))
        # The first frame of a clip has latents of its own, of which one copy remains.
        copies = (one.repeat_interleave(self.each, 1)[:, -frames:] for one in given)
        gamma, beta = (one.transpose(1, 2)[..., None, None] for one in copies)
        return gamma * clips_of(group_norm(frames_of(h_BCTHW), self.groups), frames) + beta


ADAPTIVE: dict[str, Callable[[ModelConfig, int, int], AdaptiveNorm]] = {
    "clip": lambda config, channels, _: AdaptiveNorm(config.z_channels, channels),
    "frame": lambda config, channels, level: FrameAdaptiveNorm(
        config.z_channels, channels, math.prod(config.time_strides[level:])
    ),
}
"""Adaptive norms by what their statistics are of; a table, so that releases carry the one they have."""


class Level(nn.Module):
    """The residual blocks of one resolution, with the layer that resamples to the next."""

    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, config: ModelConfig, inputs: int, outputs: int):
        super().__init__()
        widths = [inputs, *[outputs] * config.res_blocks]
        self.block = nn.ModuleList(Block(config, *pair) for pair in itertools.pairwise(widths))

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Through the blocks, resolution unchanged."""
        return through(self.block, h_BCHW)


def through(blocks: nn.ModuleList, h_BCHW: Tensor) -> Tensor:
    """One block after the other."""
    for block in blocks:
        h_BCHW = block(h_BCHW)
    return h_BCHW


class Encoder(ConvolutionalEncoder):
    """Pictures to latents at 1/stride of the resolution."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        layers, widths = layers_of(config), config.widths
        how: Down = "around" if config.conv_plus.downsample == "conv" else "pool"
        self.conv_in = layers.outermost(patched(config), config.channels, bias=False)
        self.down = nn.ModuleList()
        for number, (inputs, outputs) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            level, lowest = Level(config, inputs, outputs), number == len(widths) - 1
            level.downsample = nn.Identity() if lowest else layers.downsample(number, outputs, how)
            self.down.append(level)
        self.mid = nn.ModuleList(Block(config, widths[-1], widths[-1]) for _ in range(config.res_blocks))
        self.norm_out = layers.norm(widths[-1])
        self.conv_out = layers.convolution(widths[-1], config.encoder_channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, encoder_channels, h, w); ValueError unless H and W are multiples of the stride."""
        h = self.conv_in(self.entering(x_BCHW))
        for level in cast("Sequence[Level]", self.down):
            h = level.downsample(level(h))
        return self.conv_out(self.norm_out(through(self.mid, h)))


class Decoder(ConvolutionalDecoder):
    """Latents to pictures."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        layers, widths = layers_of(config), config.widths
        self.conv_in = layers.outermost(config.z_channels, widths[-1])
        self.mid = nn.ModuleList(Block(config, widths[-1], widths[-1]) for _ in range(config.res_blocks))
        self.up, self.adaptive = nn.ModuleList(), nn.ModuleList()
        norm = ADAPTIVE["frame" if layers.by_frame else "clip"]
        for number, (outputs, inputs) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            level = Level(config, inputs, outputs)
            up = config.conv_plus.upsample
            level.upsample = layers.upsample(number - 1, outputs, up) if number else nn.Identity()
            self.up.append(level)
            if config.conv_plus.adaptive_norm:
                self.adaptive.append(norm(config, inputs, number))
        self.norm_out = layers.norm(widths[0])
        self.conv_out = layers.outermost(widths[0], patched(config))

    def features(self, z_BDhw: Tensor) -> Tensor:
        """(B, z_channels, h, w) to the input of the last layer, (B, channels, H, W)."""
        h = through(self.mid, self.conv_in(z_BDhw))
        for number, level in reversed(list(enumerate(cast("Sequence[Level]", self.up)))):
            if self.adaptive:
                h = self.adaptive[number](h, z_BDhw)
            h = level.upsample(level(h))
        return self.norm_out(h)
