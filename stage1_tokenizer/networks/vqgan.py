"""Encoder and decoder of the convolutional VQGAN (Esser et al. 2021, appendix), for 1, 2 or 3 spatial dimensions.

Submodules have the names of taming-transformers, so that its checkpoints load after a prefix is renamed.
Legend: B batch, C channels, H W pixels, h w latent grid, N positions; with other spatial_dims, HW stands for all
spatial axes.
"""

from __future__ import annotations

import itertools
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig, attention_levels
from stage1_tokenizer.layers.convolution import Upsample, convolution
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.networks.base import PictureDecoder, refuse_odd_sizes


class ResnetBlock(Recomputable):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 convolution on x if the width changes."""

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
        """Same shape; the softmax is float32 in any precision."""
        h = self.norm(h_BCHW)
        q_B1NC, k_B1NC, v_B1NC = (part(h).flatten(2).mT.unsqueeze(1) for part in (self.q, self.k, self.v))
        mixed_BNC = F.scaled_dot_product_attention(q_B1NC, k_B1NC, v_B1NC).squeeze(1)
        return h_BCHW + self.proj_out(mixed_BNC.transpose(1, 2).unflatten(2, h_BCHW.shape[2:]))


class Downsample(nn.Module):
    """Halves the resolution: zero padding at the right and bottom, then a 3x3 convolution of stride 2."""

    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.pad = (0, 1) * dims
        self.conv = convolution(dims, channels, channels, 3, stride=2)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.conv(F.pad(h_BCHW, self.pad))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it."""

    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, config: ModelConfig, number: int, inputs: int, outputs: int, blocks: int):
        super().__init__()
        dims, attends = config.spatial_dims, number in attention_levels(config)
        widths = itertools.pairwise([inputs, *[outputs] * blocks])
        self.block = nn.ModuleList(ResnetBlock(dims, *pair, config.dropout) for pair in widths)
        self.attn = nn.ModuleList(AttentionBlock(dims, outputs) for _ in range(blocks * attends))

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Through the blocks, resolution unchanged."""
        for number, block in enumerate(self.block):
            h_BCHW = block(h_BCHW)
            if self.attn:
                h_BCHW = self.attn[number](h_BCHW)
        return h_BCHW


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, config: ModelConfig, channels: int):
        super().__init__()
        dims, attends = config.spatial_dims, config.attention and config.attention_middle
        self.block_1 = ResnetBlock(dims, channels, channels, config.dropout)
        self.attn_1 = AttentionBlock(dims, channels) if attends else nn.Identity()
        self.block_2 = ResnetBlock(dims, channels, channels, config.dropout)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape."""
        return self.block_2(self.attn_1(self.block_1(h_BCHW)))


class Encoder(nn.Module):
    """Pictures to latents at 1/stride of the resolution."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dims, widths, self.stride = config.spatial_dims, config.widths, config.stride
        self.conv_in = convolution(dims, config.in_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for number, (inputs, outputs) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            level = Level(config, number, inputs, outputs, config.res_blocks)
            level.downsample = Downsample(dims, outputs) if number < len(widths) - 1 else nn.Identity()
            self.down.append(level)
        self.mid = Middle(config, widths[-1])
        self.norm_out = Norm(widths[-1])
        self.conv_out = convolution(dims, widths[-1], config.encoder_channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, encoder_channels, h, w); ValueError unless H and W are multiples of the stride."""
        refuse_odd_sizes(x_BCHW.shape[2:], self.stride)
        h = self.conv_in(x_BCHW)
        for level in cast("list[Level]", self.down):
            h = level.downsample(level(h))
        return self.conv_out(self.norm_out(self.mid(h)))


class Decoder(PictureDecoder):
    """Latents to pictures."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dims, widths = config.spatial_dims, config.widths
        self.inner_channels = widths[-1]
        self.conv_in = convolution(dims, config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(config, widths[-1])
        self.up = nn.ModuleList()  # up[0] is the highest resolution, as in taming-transformers
        for number, (outputs, inputs) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            level = Level(config, number, inputs, outputs, config.res_blocks + 1)
            level.upsample = Upsample(dims, outputs) if number else nn.Identity()
            self.up.append(level)
        self.norm_out = Norm(widths[0])
        self.conv_out = convolution(dims, widths[0], config.in_channels, 3, padding=1)

    def features(self, z_BDhw: Tensor) -> Tensor:
        """(B, z_channels, h, w) to the input of the last layer, (B, channels, H, W)."""
        h = self.mid(self.conv_in(z_BDhw))
        if self.inner_layer:
            self.inner = h.flatten(2).mT
        for level in reversed(cast("list[Level]", self.up)):
            h = level.upsample(level(h))
        return self.norm_out(h)
