"""One tiny configuration of each kind of network for videos, for grey frames of 16×16 pixels, and clips for them."""

from __future__ import annotations

import torch
from torch import Tensor

from stage1_tokenizer.config.model import ConvPlusConfig, ModelConfig, QuantizerConfig
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.tokenizer.model import Tokenizer

CODES = QuantizerConfig(codebook_size=64, code_dim=4, start="batch")
NETWORK = {"spatial_dims": 3, "in_channels": 1, "channels": 8, "channel_multipliers": [1, 2, 2], "res_blocks": 1}
NETWORK |= {"z_channels": 8, "quantizer": CODES}
POOLED = ConvPlusConfig("pool", "nearest", adaptive_norm=False, shortcut="inner")

CAUSAL: dict[str, ModelConfig] = {
    "conv": ModelConfig(video=VideoNetConfig(causal=True, time_strides=[1, 2], block=2), **NETWORK),  # type: ignore[arg-type]
    "factorised": ModelConfig(video=VideoNetConfig(causal=True, factorised=True, block=1), **NETWORK),  # type: ignore[arg-type]
    "haar": ModelConfig(
        video=VideoNetConfig(causal=True, factorised=True, time_strides=[2, 1], space_strides=[1, 2], haar=2, block=1),
        **NETWORK,  # type: ignore[arg-type]
    ),
    "magvit2": ModelConfig(
        backbone="conv_plus",
        video=VideoNetConfig(causal=True, block=2),
        **NETWORK,  # type: ignore[arg-type]
    ),
    "maskgit": ModelConfig(
        backbone="conv_plus",
        conv_plus=POOLED,
        video=VideoNetConfig(causal=True, time_strides=[2, 1], block=1),
        **NETWORK,  # type: ignore[arg-type]
    ),
    "cosmos": ModelConfig(
        video=VideoNetConfig(causal=True, layers="cosmos", time_strides=[2, 1], space_strides=[2, 1], haar=2, block=1),
        **NETWORK,  # type: ignore[arg-type]
    ),
}
"""Every kind of causal network, by name."""


def tokenizer_of(config: ModelConfig, seed: int = 0) -> Tokenizer:
    """An untrained tokenizer in evaluation mode, whose codes are latents of noise, so that many are used."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(config).eval()
    with torch.no_grad():
        rows_ND = tokenizer._latents(clips(config)).movedim(1, -1).reshape(-1, 4)
        tokenizer.quantizer.embedding.weight.copy_(rows_ND[torch.randperm(len(rows_ND))[:64]])
    return tokenizer


def clips(config: ModelConfig, codes: int = 5, batch: int = 2, side: int = 16) -> Tensor:
    """Clips of noise with so many frames of codes, x_BCTHW in [-1, 1]."""
    frames = 1 + (codes - 1) * config.stride[0] if config.first_alone else codes * config.stride[0]
    return torch.rand(batch, config.in_channels, frames, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
