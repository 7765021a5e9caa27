"""One tiny configuration of each network for sound, by the codec whose form it has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stage1_tokenizer.config.model import ModelConfig, QuantizerConfig
from stage1_tokenizer.config.sound_networks import SeanetConfig, VocosConfig

CODES = QuantizerConfig(kind="residual", codebook_size=16, code_dim=8, codebooks=3, start="batch")
EACH = replace(CODES, code_dim=4, projections="each", latent_dim=8, l2_normalise=True)
ENCODEC = SeanetConfig(strides=[2, 3], block=8)
DAC = SeanetConfig(
    strides=[2, 3],
    dilations=[1, 3, 9],
    kernels=[7, 3, 7],
    compress=1,
    shortcut="input",
    activation="snake",
    tanh=True,
    lstm=0,
    decoder_channels=6,
    causal=False,
)
MIMI = replace(ENCODEC, lstm=0, kernels=[3, 3, 3], shortcut="input", layers=2, heads=2, window=5, resample=2, block=3)
NETWORK: dict[str, Any] = {
    "spatial_dims": 1,
    "in_channels": 1,
    "channels": 4,
    "z_channels": 8,
    "quant_conv_kernel": 0,
}

SOUND: dict[str, ModelConfig] = {
    "encodec": ModelConfig(backbone="seanet", seanet=ENCODEC, quantizer=CODES, **NETWORK),
    "encodec_reflecting": ModelConfig(
        backbone="seanet", seanet=replace(ENCODEC, padding="reflect"), quantizer=CODES, **NETWORK
    ),
    "soundstream": ModelConfig(
        backbone="seanet",
        seanet=replace(ENCODEC, dilations=[1, 3], lstm=0, weight_norm=False),
        quantizer=replace(CODES, kind="vq"),
        **{**NETWORK, "quant_conv_kernel": 1},
    ),
    "dac": ModelConfig(backbone="seanet", seanet=DAC, quantizer=EACH, **NETWORK),
    "snac": ModelConfig(
        backbone="seanet",
        seanet=replace(DAC, causal=True),
        quantizer=replace(EACH, strides=[4, 2, 1]),
        **NETWORK,
    ),
    "mimi": ModelConfig(
        backbone="seanet",
        seanet=MIMI,
        quantizer=replace(EACH, projections="split", l2_normalise=False),
        **NETWORK,
    ),
    "vocos": ModelConfig(
        backbone="vocos",
        vocos=VocosConfig(hop=6, window=24, width=16, blocks=[2, 1]),
        quantizer=CODES,
        **{**{name: value for name, value in NETWORK.items() if name != "channels"}, "in_channels": 2},
    ),
    "wavtokenizer": ModelConfig(
        backbone="seanet_vocos",
        seanet=replace(ENCODEC, causal=False, padding="reflect"),
        vocos=VocosConfig(hop=6, window=24, width=16, blocks=[4, 2], attention=True, loudest=5.0),
        quantizer=replace(CODES, kind="vq"),
        **NETWORK,
    ),
}
"""Every network, by name."""

CAUSAL = [name for name, config in SOUND.items() if config.block]
"""Those that can be streamed."""
