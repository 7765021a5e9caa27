# Made from stage1_tokenizer.conv_plus of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
from .stage1_tokenizer_convolution import convolution
from .stage1_tokenizer_recompute import Recomputable
from .stage1_tokenizer_model import Norm
from torch import Tensor
import itertools
import torch.nn.functional as F
from .stage1_tokenizer_model import refuse_odd_sizes
from .stage1_tokenizer_convolution import laid_out
from typing import cast
from .stage1_tokenizer_convolution import depth_to_space
from .stage1_tokenizer_convolution import doubled
from .stage1_tokenizer_model import norm_groups
from .stage1_tokenizer_reduce import at_least_float32


_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Block(Recomputable):
    """x + conv(swish(norm(conv(swish(norm(x)))))) without biases, and a 1x1 convolution where the width changes.

    With shortcut=inner the 1x1 convolution's input is the second summand, not x, which then goes no further.
    """

    def __init__(self, config: ModelConfig, inputs: int, outputs: int):
        super().__init__()
        dims, self.inner = config.spatial_dims, config.conv_plus.shortcut == "inner"
        self.norm1 = Norm(inputs)
        self.conv1 = convolution(dims, inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = Norm(outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = convolution(dims, outputs, outputs, 3, padding=1, bias=False)
        self.nin_shortcut: nn.Module | None = None
        if inputs != outputs:
            self.nin_shortcut = convolution(dims, outputs if self.inner else inputs, outputs, 1, bias=False)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        inner = self.conv1(self.norm1(h_BCHW))
        inner = self.conv2(self.dropout(self.norm2(inner)))
        if self.nin_shortcut is None:
            return h_BCHW + inner
        return inner + self.nin_shortcut(inner if self.inner else h_BCHW)


class Downsample(nn.Module):
    """Half the resolution: a 3x3 convolution of stride 2 with a zero on every side, or the mean of 2x2 values."""

    def __init__(self, config: ModelConfig, channels: int):
        super().__init__()
        dims = config.spatial_dims
        self.pool = _POOLS[dims]
        self.conv: nn.Module | None = None
        if config.conv_plus.downsample == "conv":
            self.conv = convolution(dims, channels, channels, 3, stride=2, padding=1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.pool(h_BCHW, 2) if self.conv is None else self.conv(h_BCHW)


class Upsample(nn.Module):
    """Twice the resolution: a 3x3 convolution whose channels become pixels, or one on repeated values."""

    def __init__(self, config: ModelConfig, channels: int):
        super().__init__()
        self.dims, self.shuffle = config.spatial_dims, config.conv_plus.upsample == "shuffle"
        outputs = channels << self.dims if self.shuffle else channels
        self.conv = convolution(self.dims, channels, outputs, 3, padding=1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return depth_to_space(self.conv(h_BCHW), 2) if self.shuffle else doubled(h_BCHW, self.conv)


class AdaptiveNorm(nn.Module):
    """gamma(σ)·norm(h) + beta(μ): σ and μ are each latent channel's deviation and mean over the grid."""

    def __init__(self, latent_channels: int, channels: int):
        super().__init__()
        self.groups = norm_groups(channels)
        self.gamma = nn.Linear(latent_channels, channels)
        self.beta = nn.Linear(latent_channels, channels)

    def forward(self, h_BCHW: Tensor, z_BDhw: Tensor) -> Tensor:
        """Same shape as h; statistics are at least float32."""
        z_BDN = at_least_float32(z_BDhw).flatten(2)
        # The published deviation counts N - 1 positions and has epsilon under the root; one position alone has none.
        deviation_BD = (z_BDN.var(2, correction=min(1, z_BDN.shape[2] - 1)) + 1e-6).sqrt()
        shape = (*h_BCHW.shape[:2], *[1] * (h_BCHW.ndim - 2))
        gamma, beta = self.gamma(deviation_BD).view(shape), self.beta(z_BDN.mean(2)).view(shape)
        return gamma * F.group_norm(h_BCHW, self.groups, eps=1e-6) + beta


class Level(nn.Module):
    """The blocks of one resolution, and what leads to the next."""

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


def _widths(config: ModelConfig) -> list[int]:
    return [config.channels * multiplier for multiplier in config.channel_multipliers]


class Encoder(nn.Module):
    """Pictures to latents at 1/stride of the resolution."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dims, widths, self.stride = config.spatial_dims, _widths(config), config.stride
        self.conv_in = convolution(dims, config.in_channels, config.channels, 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        for number, (inputs, outputs) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            level = Level(config, inputs, outputs)
            level.downsample = Downsample(config, outputs) if number < len(widths) - 1 else nn.Identity()
            self.down.append(level)
        self.mid = nn.ModuleList(Block(config, widths[-1], widths[-1]) for _ in range(config.res_blocks))
        self.norm_out = Norm(widths[-1])
        self.conv_out = convolution(dims, widths[-1], config.encoder_channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, z_channels, h, w); H and W must be multiples of the stride, else ValueError."""
        refuse_odd_sizes(x_BCHW.shape[2:], self.stride)
        h = laid_out(self.conv_in(x_BCHW), self.conv_in.out_channels)
        for level in cast("Sequence[Level]", self.down):
            h = level.downsample(level(h))
        return self.conv_out(self.norm_out(through(self.mid, h)))


class Decoder(nn.Module):
    """Latents to pictures, as `last_layer(features(z))`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dims, widths = config.spatial_dims, _widths(config)
        self.conv_in = convolution(dims, config.z_channels, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList(Block(config, widths[-1], widths[-1]) for _ in range(config.res_blocks))
        self.up, self.adaptive = nn.ModuleList(), nn.ModuleList()
        for number, outputs in enumerate(widths):
            inputs = widths[min(number + 1, len(widths) - 1)]
            level = Level(config, inputs, outputs)
            level.upsample = Upsample(config, outputs) if number else nn.Identity()
            self.up.append(level)
            if config.conv_plus.adaptive_norm:
                self.adaptive.append(AdaptiveNorm(config.z_channels, inputs))
        self.norm_out = Norm(widths[0])
        self.conv_out = convolution(dims, widths[0], config.in_channels, 3, padding=1)

    @property
    def last_layer(self) -> Convolution:
        """The convolution that gives the picture."""
        return self.conv_out

    def features(self, z_BDhw: Tensor) -> Tensor:
        """(B, z_channels, h, w) to what enters the last layer, (B, channels, H, W)."""
        h = through(self.mid, laid_out(self.conv_in(z_BDhw), self.conv_out.in_channels))
        for number, level in reversed(list(enumerate(cast("Sequence[Level]", self.up)))):
            if self.adaptive:
                h = self.adaptive[number](h, z_BDhw)
            h = level.upsample(level(h))
        return self.norm_out(h)

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """(B, z_channels, h, w) to pictures (B, C, H, W)."""
        return self.last_layer(self.features(z_BDhw))
