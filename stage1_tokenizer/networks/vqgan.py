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
from stage1_tokenizer.layers.alike import Layers
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.networks.along_time import ConvolutionalDecoder, ConvolutionalEncoder, layers_of, patched


class ResnetBlock(Recomputable):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 convolution on x if the width changes."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = layers.norm(inputs)
        self.conv1 = layers.convolution(inputs, outputs, 3)
        self.norm2 = layers.norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = layers.convolution(outputs, outputs, 3)
        self.nin_shortcut = layers.convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        inner = self.conv1(self.norm1(h_BCHW))
        inner = self.conv2(self.dropout(self.norm2(inner)))
        return self.nin_shortcut(h_BCHW) + inner


class AttentionBlock(Recomputable):
    """x + self-attention over all positions, one head as wide as the channels; of causal videos within each frame."""

    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.by_frame = layers.by_frame
        self.norm = layers.norm(channels, swish=False)
        self.q = layers.convolution(channels, channels, 1)
        self.k = layers.convolution(channels, channels, 1)
        self.v = layers.convolution(channels, channels, 1)
        self.proj_out = layers.convolution(channels, channels, 1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape; the softmax is float32 in any precision."""
        h, apart = self.norm(h_BCHW), 1 + self.by_frame  # batch and channels, or frames, channels and batch
        q, k, v = (self._rows(part(h)) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).mT.unflatten(-1, h_BCHW.shape[1 + apart :])
        return h_BCHW + self.proj_out(mixed.transpose(1, 2) if self.by_frame else mixed.squeeze(1))

    def _rows(self, h_BCHW: Tensor) -> Tensor:
        """(B, 1, N, C), or of frames (B, T, N, C)."""
        if self.by_frame:
            return h_BCHW.flatten(3).permute(0, 2, 3, 1)
        return h_BCHW.flatten(2).mT.unsqueeze(1)


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it."""

    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, config: ModelConfig, layers: Layers, number: int, widths: tuple[int, int], blocks: int):
        """`widths`: inputs, outputs."""
        super().__init__()
        (inputs, outputs), attends = widths, number in attention_levels(config)
        pairs = itertools.pairwise([inputs, *[outputs] * blocks])
        self.block = nn.ModuleList(ResnetBlock(layers, *pair, config.dropout) for pair in pairs)
        attention = (layers.attention(AttentionBlock(layers, outputs), outputs) for _ in range(blocks * attends))
        self.attn = nn.ModuleList(attention)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Through the blocks, resolution unchanged."""
        for number, block in enumerate(self.block):
            h_BCHW = block(h_BCHW)
            if self.attn:
                h_BCHW = self.attn[number](h_BCHW)
        return h_BCHW


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, config: ModelConfig, layers: Layers, channels: int):
        super().__init__()
        attends = config.attention and config.attention_middle
        self.block_1 = ResnetBlock(layers, channels, channels, config.dropout)
        self.attn_1 = layers.attention(AttentionBlock(layers, channels), channels) if attends else nn.Identity()
        self.block_2 = ResnetBlock(layers, channels, channels, config.dropout)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape."""
        return self.block_2(self.attn_1(self.block_1(h_BCHW)))


class Encoder(ConvolutionalEncoder):
    """Pictures to latents at 1/stride of the resolution."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        layers, widths = layers_of(config), config.widths
        self.conv_in = layers.outermost(patched(config), config.channels)
        self.down = nn.ModuleList()
        for number, pair in enumerate(zip([config.channels, *widths], widths, strict=False)):
            level, lowest = Level(config, layers, number, pair, config.res_blocks), number == len(widths) - 1
            level.downsample = nn.Identity() if lowest else layers.downsample(number, pair[1], "behind")
            self.down.append(level)
        self.mid = Middle(config, layers, widths[-1])
        self.norm_out = layers.norm(widths[-1])
        self.conv_out = layers.outermost(widths[-1], config.encoder_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, encoder_channels, h, w); ValueError unless H and W are multiples of the stride."""
        h = self.conv_in(self.entering(x_BCHW))
        for level in cast("list[Level]", self.down):
            h = level.downsample(level(h))
        return self.conv_out(self.norm_out(self.mid(h)))


class Decoder(ConvolutionalDecoder):
    """Latents to pictures, with the configuration's layers or others."""

    def __init__(self, config: ModelConfig, layers: Layers | None = None):
        super().__init__(config)
        layers, widths = layers or layers_of(config), config.widths
        self.conv_in = layers.outermost(config.z_channels, widths[-1])
        self.mid = Middle(config, layers, widths[-1])
        self.up = nn.ModuleList()  # up[0] is the highest resolution, as in taming-transformers
        for number, (outputs, inputs) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            level = Level(config, layers, number, (inputs, outputs), config.res_blocks + 1)
            level.upsample = layers.upsample(number - 1, outputs, "nearest") if number else nn.Identity()
            self.up.append(level)
        self.norm_out = layers.norm(widths[0])
        self.conv_out = layers.outermost(widths[0], patched(config))

    def features(self, z_BDhw: Tensor) -> Tensor:
        """(B, z_channels, h, w) to the input of the last layer, (B, channels, H, W)."""
        h = self.mid(self.conv_in(z_BDhw))
        for level in reversed(cast("list[Level]", self.up)):
            h = level.upsample(level(h))
        return self.norm_out(h)
