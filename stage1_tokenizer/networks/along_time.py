"""What convolutional networks for pictures and for videos share: how they treat time (model.video).

Legend: B batch, C channels, H W pixels; with other spatial_dims, HW stands for all spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.layers.alike import Layers
from stage1_tokenizer.layers.cosmos import CosmosLayers
from stage1_tokenizer.layers.video import HaarPatches, HaarPixels, VideoLayers
from stage1_tokenizer.networks.base import PictureDecoder, refuse_odd_sizes

LAYERS: dict[str, Callable[[ModelConfig], Layers]] = {
    "alike": lambda config: Layers(config.spatial_dims),
    "video": VideoLayers,
    "cosmos": CosmosLayers,
}
"""Layers by how they treat time; a table, so that releases for pictures don't carry those of videos."""

PATCHES: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "encoder": lambda config: HaarPatches(config.video.haar, causal=config.video.first_alone),
    "decoder": lambda config: HaarPixels(config.video.haar, causal=config.video.first_alone),
}
"""Haar patches of videos; a table for the same reason."""


def layers_of(config: ModelConfig) -> Layers:
    """The layers that a configuration asks for."""
    return LAYERS[config.video.kind](config)


def patched(config: ModelConfig) -> int:
    """Channels of the networks' input and output, pixels or patches of them."""
    return config.in_channels * config.video.haar**3


class ConvolutionalEncoder(nn.Module):
    """Checks sizes, and cuts videos into Haar patches where that is set."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.alone, self.stride = int(config.first_alone), config.stride
        self.patches = PATCHES["encoder"](config) if config.video.haar > 1 else None

    def entering(self, x_BCHW: Tensor) -> Tensor:
        """What enters the first convolution. ValueError for odd sizes, save of time if causal."""
        refuse_odd_sizes(x_BCHW.shape[2 + self.alone :], self.stride[self.alone :])
        return x_BCHW if self.patches is None else self.patches(x_BCHW)


class ConvolutionalDecoder(PictureDecoder):
    """Joins Haar patches after the last convolution where that is set."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.pixels = PATCHES["decoder"](config) if config.video.haar > 1 else None

    @property
    def last_layer(self) -> Any:
        """The last convolution; with Haar patches, followed by what joins them."""
        return self.conv_out if self.pixels is None else nn.Sequential(self.conv_out, self.pixels)
