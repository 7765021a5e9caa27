# Made from stage1_tokenizer.networks.base of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_config_model import one_or_all
from collections.abc import Sequence
from torch import nn
from .stage1_tokenizer_layers_convolution import LastLayer
from torch import Tensor


class PictureDecoder(nn.Module):
    """Latents to pictures, as `last_layer(features(z))`: the adaptive weight needs what enters the last layer."""

    conv_out: LastLayer

    @property
    def last_layer(self) -> LastLayer:
        """The convolution that gives the picture."""
        return self.conv_out

    def features(self, z_BDhw: Tensor) -> Tensor:
        """Latents to the input of the last layer."""
        raise NotImplementedError

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """Latents (B, D, h, w) to pictures (B, C, H, W)."""
        return self.last_layer(self.features(z_BDhw))


def refuse_odd_sizes(sizes: Sequence[int], stride: tuple[int, ...]) -> None:
    """ValueError unless every side is a multiple of the stride along its axis."""
    if any(size % step for size, step in zip(sizes, stride, strict=True)):
        shown = one_or_all(stride)
        raise ValueError(f"a picture of {tuple(sizes)} is not a multiple of the stride {shown}: pad or crop it")
