# Made from stage1_tokenizer.backbones of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from . import stage1_tokenizer_model as model
from .stage1_tokenizer_model import Decoder as _  # transformers copies files that are named like this
from . import stage1_tokenizer_conv_plus as conv_plus
from .stage1_tokenizer_conv_plus import Decoder as _  # transformers copies files that are named like this
from . import stage1_tokenizer_vit as vit
from .stage1_tokenizer_vit import Decoder as _  # transformers copies files that are named like this
from torch import nn
from .stage1_tokenizer_convolution import convolution


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
