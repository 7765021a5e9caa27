# Made from stage1_tokenizer.networks.build of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_networks_vqgan import Encoder as VqganEncoder
from torch import nn
from .stage1_tokenizer_layers_convolution import convolution
from .stage1_tokenizer_networks_vqgan import Decoder as VqganDecoder


ENCODERS: dict[str, type[Encoder]] = {'conv': VqganEncoder}


DECODERS: dict[str, type[Decoder]] = {'conv': VqganDecoder}


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
