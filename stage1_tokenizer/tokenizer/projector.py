"""The projector of loss.semantic: features of the tokenizer, brought to the width of a frozen network.

It is a part of the tokenizer while that is trained: it has its optimizer, averages and checkpoints. Releases don't have
it, as `Codec.weights` leaves it out.
Legend: B batch, D channels of the features, h w latent grid, N positions, E width of the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.semantic import SemanticConfig
from stage1_tokenizer.layers.precision import as_weights_of
from stage1_tokenizer.tokenizer.codec import PROJECTOR, Codec


class Projector(nn.Module):
    """The chosen features of a forward, (B, D, h, w), as (B, N, E); with form=contrastive their mean, N = 1."""

    def __init__(self, config: SemanticConfig, inputs: int, outputs: int):
        """`inputs` are the channels of the features, `outputs` the network's width."""
        super().__init__()
        self.config, self.inputs, self.outputs, hidden = config, inputs, outputs, config.hidden
        if config.projector == "linear":
            self.layers: nn.Module = nn.Linear(inputs, outputs, bias=False)
        else:
            between = nn.Linear(hidden, hidden)
            self.layers = nn.Sequential(
                nn.Linear(inputs, hidden), nn.SiLU(), between, nn.SiLU(), nn.Linear(hidden, outputs)
            )

    def forward(self, z_BDhw: Tensor | None, latents_BDhw: Tensor, decoder: Any) -> Tensor:
        """Of the quantizer's input (None: nothing was encoded) and output, and of a decoder that has just seen it."""
        if self.config.at == "latents":
            assert z_BDhw is not None, "the configuration refuses it"
            h_BND = z_BDhw.flatten(2).mT
        elif self.config.at == "codes":
            h_BND = latents_BDhw.flatten(2).mT
            if self.config.branch is not None:
                h_BND = h_BND.unflatten(2, (-1, self.inputs))[:, :, self.config.branch]
        else:
            h_BND, decoder.inner = decoder.inner, None
        if self.config.form == "contrastive":
            h_BND = h_BND.mean(1, keepdim=True)
        return self.layers(as_weights_of(self.layers, h_BND)).clone()  # FSDP2 wants outputs that are no views


def attach(codec: Codec, config: SemanticConfig, width: int) -> None:
    """Make a projector to a network's width a part of a tokenizer, whose forward then has aligned features."""
    decoder: Any = codec.decoder
    if config.at == "latents":
        inputs = codec.quantizer.input_channels
    elif config.at == "codes":
        inputs = codec.quantizer.latent_channels // (1 if config.branch is None else codec.codebooks)
    else:
        decoder.inner_layer = config.layer
        inputs = decoder.inner_channels
    setattr(codec, PROJECTOR, Projector(config, inputs, width))


def aligned_features(codec: Codec, x_BCHW: Tensor) -> Tensor:
    """The aligned features (B, N, E) of pictures; the tokenizer has a projector."""
    with torch.no_grad():
        features = codec(x_BCHW).aligned_BNE
    assert features is not None
    return features
