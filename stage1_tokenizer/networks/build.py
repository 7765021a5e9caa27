"""The kinds of encoders and decoders, and the layer between them and the quantizer.

An encoder maps pictures (B, C, H, W) to latents (B, encoder_channels, h, w); a decoder (`base.PictureDecoder`) maps
latents (B, z_channels, h, w) to pictures.
"""

from __future__ import annotations

from torch import nn

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.layers.convolution import convolution
from stage1_tokenizer.networks.maskgit import Decoder as MaskgitDecoder
from stage1_tokenizer.networks.maskgit import Encoder as MaskgitEncoder
from stage1_tokenizer.networks.movq import Decoder as MovqDecoder
from stage1_tokenizer.networks.movq import Encoder as MovqEncoder
from stage1_tokenizer.networks.seanet import Decoder as SeanetDecoder
from stage1_tokenizer.networks.seanet import Encoder as SeanetEncoder
from stage1_tokenizer.networks.vit import Decoder as VitDecoder
from stage1_tokenizer.networks.vit import Encoder as VitEncoder
from stage1_tokenizer.networks.vocos import Decoder as VocosDecoder
from stage1_tokenizer.networks.vocos import Encoder as VocosEncoder
from stage1_tokenizer.networks.vqgan import Decoder as VqganDecoder
from stage1_tokenizer.networks.vqgan import Encoder as VqganEncoder

Encoder = VqganEncoder | MaskgitEncoder | VitEncoder | MovqEncoder | SeanetEncoder | VocosEncoder
Decoder = VqganDecoder | MaskgitDecoder | VitDecoder | MovqDecoder | SeanetDecoder | VocosDecoder

ENCODERS: dict[str, type[Encoder]] = {
    "conv": VqganEncoder,
    "conv_plus": MaskgitEncoder,
    "vit": VitEncoder,
    "movq": MovqEncoder,
    "seanet": SeanetEncoder,
    "vocos": VocosEncoder,
    "seanet_vocos": SeanetEncoder,
}
DECODERS: dict[str, type[Decoder]] = {
    "conv": VqganDecoder,
    "conv_plus": MaskgitDecoder,
    "vit": VitDecoder,
    "movq": MovqDecoder,
    "seanet": SeanetDecoder,
    "vocos": VocosDecoder,
    "seanet_vocos": VocosDecoder,
}
"""Encoders and decoders by their name in the configuration (backbone)."""


def build_bridge(config: ModelConfig, inputs: int, outputs: int) -> nn.Module:
    """The layer between a network and the quantizer: a convolution of width quant_conv_kernel, or the identity.

    ValueError if it is the identity and the channels differ.
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
