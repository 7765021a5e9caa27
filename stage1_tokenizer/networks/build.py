"""Encoder and decoder that a configuration names, by one protocol for all kinds.

An encoder takes pictures (B, C, H, W) to latents (B, encoder_channels, h, w); a decoder takes latents (B, z_channels,
h, w) to pictures, and is `last_layer(features(z))`, where `last_layer` is a convolution: the adaptive weight of the
adversarial term needs what enters it.
"""

from __future__ import annotations

from torch import nn

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.layers.convolution import convolution
from stage1_tokenizer.networks import maskgit as conv_plus
from stage1_tokenizer.networks import vit
from stage1_tokenizer.networks import vqgan as model

Encoder = model.Encoder | conv_plus.Encoder | vit.Encoder
Decoder = model.Decoder | conv_plus.Decoder | vit.Decoder

_ENCODERS: dict[str, type[Encoder]] = {"conv": model.Encoder, "conv_plus": conv_plus.Encoder, "vit": vit.Encoder}
_DECODERS: dict[str, type[Decoder]] = {"conv": model.Decoder, "conv_plus": conv_plus.Decoder, "vit": vit.Decoder}


def build_encoder(config: ModelConfig) -> Encoder:
    """The encoder that `config.backbone` names."""
    return _ENCODERS[config.backbone](config)


def build_decoder(config: ModelConfig) -> Decoder:
    """The decoder that `config.backbone` names."""
    return _DECODERS[config.backbone](config)


def build_bridge(config: ModelConfig, inputs: int, outputs: int) -> nn.Module:
    """What lies between a network and the quantizer: a convolution of width quant_conv_kernel, or nothing."""
    kernel = config.quant_conv_kernel
    if not kernel:
        return nn.Identity()
    return convolution(config.latent_dims, inputs, outputs, kernel, padding=kernel // 2)
