# Made from stage1_tokenizer.step of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import Tensor
from dataclasses import dataclass


@dataclass
class Reconstruction:
    """What the generator's (the Tokenizer's) forward(x_BCHW) returns for training."""

    x_BCHW: Tensor
    """The reconstruction: decoder.last_layer(features)."""
    features_BCHW: Tensor
    """What entered the decoder's last layer: decoder.features(z)."""
    codes_Bhw: Tensor | None
    """The quantizer's codes."""
    losses: dict[str, Tensor]
    """The quantizer's losses, weighted."""
