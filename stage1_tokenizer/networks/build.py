"""The encoder and decoder that a configuration names, with one protocol for all kinds.

An encoder takes pictures (B, C, H, W) to latents (B, encoder_channels, h, w); a decoder takes latents (B, z_channels,
h, w) to pictures, and is `last_layer(features(z))`, where `last_layer` is a convolution: the adaptive weight of the
adversarial term needs what enters it.
"""

from __future__ import annotations

from torch import nn

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.layers.convolution import convolution
from stage1_tokenizer.networks.maskgit import Decoder as MaskgitDecoder
from stage1_tokenizer.networks.maskgit import Encoder as MaskgitEncoder
from stage1_tokenizer.networks.vit import Decoder as VitDecoder
from stage1_tokenizer.networks.vit import Encoder as VitEncoder
from stage1_tokenizer.networks.vqgan import Decoder as VqganDecoder
from stage1_tokenizer.networks.vqgan import Encoder as VqganEncoder

Encoder = VqganEncoder | MaskgitEncoder | VitEncoder
Decoder = VqganDecoder | MaskgitDecoder | VitDecoder

ENCODERS: dict[str, type[Encoder]] = {"conv": VqganEncoder, "conv_plus": MaskgitEncoder, "vit": VitEncoder}
DECODERS: dict[str, type[Decoder]] = {"conv": VqganDecoder, "conv_plus": MaskgitDecoder, "vit": VitDecoder}
"""Every kind of network, by its name in the configuration."""


def build_encoder(config: ModelConfig) -> Encoder:
    """The encoder that `config.backbone` names."""
    return ENCODERS[config.backbone](config)


def build_decoder(config: ModelConfig) -> Decoder:
    """The decoder that `config.backbone` names."""
    return DECODERS[config.backbone](config)


def build_bridge(config: ModelConfig, inputs: int, outputs: int) -> nn.Module:
    """What lies between a network and the quantizer: a convolution of width quant_conv_kernel, or nothing.

    ValueError if there is nothing and the channels differ.
    """
    kernel = config.quant_conv_kernel
    if not kernel:
        if inputs != outputs:
            raise ValueError(
                f"model.quant_conv_kernel=0 joins network and quantizer directly, but {inputs} channels meet "
                f"{outputs}: set model.z_channels and model.double_z to fit the quantizer, or quant_conv_kernel to 1"
            )
        return nn.Identity()
    return convolution(config.latent_dims, inputs, outputs, kernel, padding=kernel // 2)
