"""One tiny configuration of each backbone, for pictures of 32×32 pixels and a stride of 4 or 8."""

from __future__ import annotations

from dataclasses import replace

from stage1_tokenizer.config.model import ConvPlusConfig, ModelConfig, QuantizerConfig, TransformerConfig, VitConfig

CODES = QuantizerConfig(codebook_size=16, code_dim=4, start="batch")
NETWORK = {"channels": 8, "channel_multipliers": [1, 2, 2], "res_blocks": 1, "z_channels": 8, "quantizer": CODES}
SIZE = TransformerConfig(width=16, depth=2, heads=2)
VIT = VitConfig(size=32, patch=8, encoder=SIZE, decoder=replace(SIZE, width=24, depth=1))

BACKBONES: dict[str, ModelConfig] = {
    "conv": ModelConfig(**NETWORK),  # type: ignore[arg-type]
    "magvit2": ModelConfig(backbone="conv_plus", **NETWORK),  # type: ignore[arg-type]
    "maskgit": ModelConfig(
        backbone="conv_plus",
        conv_plus=ConvPlusConfig("pool", "nearest", adaptive_norm=False, shortcut="inner"),
        **NETWORK,  # type: ignore[arg-type]
    ),
    "vit": ModelConfig(backbone="vit", vit=VIT, z_channels=8, quantizer=CODES),
    "vit_sincos": ModelConfig(
        backbone="vit", vit=replace(VIT, positions="sincos", head="linear"), z_channels=8, quantizer=CODES
    ),
    "titok": ModelConfig(
        backbone="vit", vit=replace(VIT, latent_tokens=5, head="linear"), z_channels=8, quantizer=CODES
    ),
}
"""Every kind of network, by name."""
