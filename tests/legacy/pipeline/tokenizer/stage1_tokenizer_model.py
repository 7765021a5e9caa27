# Made from stage1_tokenizer.model of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
from .stage1_tokenizer_convolution import convolution
from .stage1_tokenizer_recompute import Recomputable
from .stage1_tokenizer_normalization import group_norm_swish
from torch import Tensor
import torch.nn.functional as F
from collections.abc import Sequence
from .stage1_tokenizer_convolution import laid_out
from typing import cast
from .stage1_tokenizer_convolution import doubled


def norm_groups(channels: int) -> int:
    """The largest number of groups, at most 32, that divides the channels."""
    return next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)


class Norm(nn.GroupNorm):
    """Group normalisation, at most 32 groups (fewer where they don't divide the channels), optionally then swish.

    The statistics are float32 under mixed precision.
    """

    def __init__(self, channels: int, *, swish: bool = True):
        super().__init__(norm_groups(channels), channels, eps=1e-6)
        self.swish = swish

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape and type as the input's."""
        if self.swish:
            return group_norm_swish(h_BCHW, self.num_groups, self.weight, self.bias, self.eps)
        return super().forward(h_BCHW)


class ResnetBlock(Recomputable):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, dims: int, inputs: int, outputs: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = Norm(inputs)
        self.conv1 = convolution(dims, inputs, outputs, 3, padding=1)
        self.norm2 = Norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = convolution(dims, outputs, outputs, 3, padding=1)
        self.nin_shortcut = convolution(dims, inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        inner = self.conv1(self.norm1(h_BCHW))
        inner = self.conv2(self.dropout(self.norm2(inner)))
        return self.nin_shortcut(h_BCHW) + inner


class AttentionBlock(Recomputable):
    """x + self-attention over all positions, one head as wide as the channels."""

    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.norm = Norm(channels, swish=False)
        self.q = convolution(dims, channels, channels, 1)
        self.k = convolution(dims, channels, channels, 1)
        self.v = convolution(dims, channels, channels, 1)
        self.proj_out = convolution(dims, channels, channels, 1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape as the input; the softmax is computed in float32 whatever the precision."""
        h = self.norm(h_BCHW)
        q_B1NC, k_B1NC, v_B1NC = (rows(part(h)).unsqueeze(1) for part in (self.q, self.k, self.v))
        mixed_BNC = F.scaled_dot_product_attention(q_B1NC, k_B1NC, v_B1NC).squeeze(1)
        return h_BCHW + self.proj_out(mixed_BNC.transpose(1, 2).unflatten(2, h_BCHW.shape[2:]))


def rows(h_BCHW: Tensor) -> Tensor:
    """Positions as rows: (B, C, H, W) to (B, H·W, C)."""
    return h_BCHW.flatten(2).transpose(1, 2)


class Downsample(nn.Module):
    """Halve the resolution: a zero column after and row below, then a 3x3 convolution of stride 2."""

    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.pad = (0, 1) * dims
        self.conv = convolution(dims, channels, channels, 3, stride=2)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.conv(F.pad(h_BCHW, self.pad))


class Upsample(nn.Module):
    """Double the resolution: each value repeated, then a 3x3 convolution."""

    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.conv = convolution(dims, channels, channels, 3, padding=1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return doubled(h_BCHW, self.conv)


class Level(nn.Module):
    """The blocks of one resolution; attention, where there is any, follows each of them."""

    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, dims: int, widths: Sequence[tuple[int, int]], attention: bool, dropout: float):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(dims, inputs, outputs, dropout) for inputs, outputs in widths)
        self.attn = nn.ModuleList(AttentionBlock(dims, outputs) for _, outputs in widths if attention)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Through the blocks, resolution unchanged."""
        for number, block in enumerate(self.block):
            h_BCHW = block(h_BCHW)
            if self.attn:
                h_BCHW = self.attn[number](h_BCHW)
        return h_BCHW


def attention_levels(config: ModelConfig) -> set[int]:
    """Numbers of the levels whose blocks attention follows."""
    if not config.attention:
        return set()
    lowest = [len(config.channel_multipliers) - 1]
    return set(lowest if config.attention_levels is None else config.attention_levels)


def refuse_odd_sizes(sizes: Sequence[int], stride: int) -> None:
    """ValueError unless every side is a multiple of the stride."""
    if any(size % stride for size in sizes):
        raise ValueError(f"a picture of {tuple(sizes)} is not a multiple of the stride {stride}: pad or crop it")


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, dims: int, channels: int, attention: bool, dropout: float):
        super().__init__()
        self.block_1 = ResnetBlock(dims, channels, channels, dropout)
        self.attn_1 = AttentionBlock(dims, channels) if attention else nn.Identity()
        self.block_2 = ResnetBlock(dims, channels, channels, dropout)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape."""
        return self.block_2(self.attn_1(self.block_1(h_BCHW)))


class Encoder(nn.Module):
    """Pictures to latents at 1/stride of the resolution."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dims, levels = config.spatial_dims, len(config.channel_multipliers)
        widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
        attends, middle = attention_levels(config), config.attention and config.attention_middle
        self.conv_in = convolution(dims, config.in_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for number, (inputs, outputs) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            lowest = number == levels - 1
            pairs = [(inputs, outputs)] + [(outputs, outputs)] * (config.res_blocks - 1)
            level = Level(dims, pairs, number in attends, config.dropout)
            level.downsample = nn.Identity() if lowest else Downsample(dims, outputs)
            self.down.append(level)
        self.mid = Middle(dims, widths[-1], middle, config.dropout)
        self.norm_out = Norm(widths[-1])
        self.conv_out = convolution(dims, widths[-1], config.encoder_channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, z_channels, h, w); H and W must be multiples of the stride, else ValueError."""
        refuse_odd_sizes(x_BCHW.shape[2:], 1 << (len(self.down) - 1))
        h = laid_out(self.conv_in(x_BCHW), self.conv_in.out_channels)
        for level in cast("list[Level]", self.down):
            h = level.downsample(level(h))
        return self.conv_out(self.norm_out(self.mid(h)))


class Decoder(nn.Module):
    """Latents to pictures, as `last_layer(features(z))`: the adaptive weight needs what enters the last layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dims, levels = config.spatial_dims, len(config.channel_multipliers)
        widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
        attends, middle = attention_levels(config), config.attention and config.attention_middle
        self.conv_in = convolution(dims, config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(dims, widths[-1], middle, config.dropout)
        up: list[nn.Module] = []
        for number, outputs in enumerate(widths):
            inputs = widths[min(number + 1, levels - 1)]
            pairs = [(inputs, outputs)] + [(outputs, outputs)] * config.res_blocks
            level = Level(dims, pairs, number in attends, config.dropout)
            level.upsample = Upsample(dims, outputs) if number else nn.Identity()
            up.append(level)
        self.up = nn.ModuleList(up)  # up[0] is the highest resolution, as in taming-transformers
        self.norm_out = Norm(widths[0])
        self.conv_out = convolution(dims, widths[0], config.in_channels, 3, padding=1)

    @property
    def last_layer(self) -> Convolution:
        """The convolution that gives the picture."""
        return self.conv_out

    def features(self, z_BDhw: Tensor) -> Tensor:
        """(B, z_channels, h, w) to what enters the last layer, (B, channels, H, W)."""
        h = self.mid(laid_out(self.conv_in(z_BDhw), self.conv_out.in_channels))
        for level in reversed(cast("list[Level]", self.up)):
            h = level.upsample(level(h))
        return self.norm_out(h)

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """(B, z_channels, h, w) to pictures (B, C, H, W)."""
        return self.last_layer(self.features(z_BDhw))
