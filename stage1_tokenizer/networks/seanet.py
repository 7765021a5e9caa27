"""Convolutions on waveforms (backbone=seanet): SoundStream, EnCodec, DAC and Mimi, by settings.

A stage of the encoder has residual units and a strided convolution that doubles the width; the decoder goes backwards
(Tagliasacchi et al. 2020; Zeghidour et al. 2021; Défossez et al. 2022 and 2024; Kumar et al. 2023). At the latents'
rate there may be an LSTM, and a transformer with one more resampling.

Legend: B batch, C channels, D latent channels, T samples, t frames.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.config.sound_networks import SeanetConfig
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.layers.waveform import Convolution1d, Lstm, Past, Snake, Upsampling1d
from stage1_tokenizer.layers.window_attention import WindowTransformer
from stage1_tokenizer.networks.base import PictureDecoder, refuse_odd_sizes

TRANSFORMERS: dict[str, type[WindowTransformer]] = {"window": WindowTransformer}
"""Transformers at the latents' rate; a table, so that releases without one don't carry it."""


class ResidualUnit(Recomputable):
    """conv(act(conv(act(x)))), the first with the unit's kernel and dilation, the second 1x1, plus x or a 1x1 of x."""

    def __init__(self, config: SeanetConfig, channels: int, dilation: int):
        super().__init__()
        inner = channels // config.compress
        self.act1, self.act2 = activation(config, channels), activation(config, inner)
        self.conv1 = Convolution1d(config, (channels, inner, config.kernels[0]), dilation=dilation)
        self.conv2 = Convolution1d(config, (inner, channels, 1))
        self.shortcut = Convolution1d(config, (channels, channels, 1)) if config.shortcut == "conv" else None

    def forward(self, h_BCT: Tensor, past: Past | None = None) -> Tensor:
        """Same shape."""
        inner = self.conv2(self.act2(self.conv1(self.act1(h_BCT), past)), past)
        return (h_BCT if self.shortcut is None else self.shortcut(h_BCT, past)) + inner


class Stage(nn.Module):
    """Residual units and a change of resolution: after them in the encoder, before them in the decoder."""

    def __init__(self, config: SeanetConfig, channels: int, *, act: nn.Module, resample: nn.Module, first: bool):
        super().__init__()
        self.units = nn.ModuleList(ResidualUnit(config, channels, dilation) for dilation in config.dilations)
        self.act, self.resample, self.first = act, resample, first

    def forward(self, h_BCT: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T) to twice the channels and T / stride, or back."""
        if self.first:
            h_BCT = self.resample(self.act(h_BCT), past)
        for unit in self.units:
            h_BCT = unit(h_BCT, past)
        return h_BCT if self.first else self.resample(self.act(h_BCT), past)


class Encoder(nn.Module):
    """Waveforms to latents. `past` is set while a causal network takes a sound in parts."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        settings, width = config.seanet, config.channels
        self.stride, self.past = config.stride, cast("Past | None", None)
        self.conv_in = Convolution1d(settings, (config.in_channels, width, 7))
        self.stages = nn.ModuleList()
        for stride in settings.strides:
            down = Convolution1d(settings, (width, 2 * width, 2 * stride), stride=stride)
            act = activation(settings, width)
            self.stages.append(Stage(settings, width, act=act, resample=down, first=False))
            width *= 2
        self.lstm = Lstm(width, settings.lstm) if settings.lstm else None
        self.act_out = activation(settings, width)
        channels, step = config.encoder_channels, settings.resample
        self.conv_out = Convolution1d(settings, (width, channels, settings.kernels[1]))
        self.transformer = transformer(settings, channels)
        sizes = (channels, channels, 2 * step)
        self.resample = Convolution1d(settings, sizes, stride=step, bare=True) if step > 1 else None

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) to (B, encoder_channels, t); ValueError unless T is a multiple of the stride."""
        refuse_odd_sizes(x_BCT.shape[2:], self.stride)
        h = self.conv_in(x_BCT, self.past)
        for stage in self.stages:
            h = stage(h, self.past)
        h = h if self.lstm is None else self.lstm(h, self.past)
        h = self.conv_out(self.act_out(h), self.past)
        h = h if self.transformer is None else self.transformer(h, self.past)
        return h if self.resample is None else self.resample(h, self.past)


class Decoder(PictureDecoder):
    """Latents to waveforms. `past` is set while a causal network takes codes in parts."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        settings, channels = config.seanet, config.z_channels
        self.hop, self.past = settings.hop, cast("Past | None", None)
        width = (settings.decoder_channels or config.channels) << len(settings.strides)
        step = settings.resample
        self.resample = Upsampling1d(settings, channels, channels, step, bare=True) if step > 1 else None
        self.transformer = transformer(settings, channels)
        self.conv_in = Convolution1d(settings, (channels, width, 7))
        self.lstm = Lstm(width, settings.lstm) if settings.lstm else None
        self.stages = nn.ModuleList()
        for stride in reversed(settings.strides):
            width //= 2
            up = Upsampling1d(settings, 2 * width, width, stride)
            act = activation(settings, 2 * width)
            self.stages.append(Stage(settings, width, act=act, resample=up, first=True))
        self.act_out = activation(settings, width)
        self.conv_out = Convolution1d(settings, (width, config.in_channels, settings.kernels[2]))
        self.bounded = settings.tanh

    @property
    def last_layer(self) -> Any:
        """The convolution that gives the waveform, on what is padded already; with `tanh`, followed by that."""
        return nn.Sequential(self.conv_out.conv, nn.Tanh()) if self.bounded else self.conv_out.conv

    def features(self, z_BDt: Tensor) -> Tensor:
        """Latents (B, z_channels, t) to the padded input of the last layer."""
        h = z_BDt if self.resample is None else self.resample(z_BDt, self.past)
        h = h if self.transformer is None else self.transformer(h, self.past)
        h = self.conv_in(h, self.past)
        h = h if self.lstm is None else self.lstm(h, self.past)
        for stage in self.stages:
            h = stage(h, self.past)
        h = F.pad(h, (0, self.hop * z_BDt.shape[-1] - h.shape[-1]))  # what `odd_trim` dropped
        return self.conv_out.padded(self.act_out(h), self.past)


def activation(config: SeanetConfig, channels: int) -> nn.Module:
    """The activation of the settings."""
    return Snake(channels) if config.activation == "snake" else nn.ELU()


def transformer(config: SeanetConfig, channels: int) -> WindowTransformer | None:
    """The transformer at the latents' rate, if there is one."""
    return TRANSFORMERS["window"](channels, config.layers, config.heads, config.window) if config.layers else None
