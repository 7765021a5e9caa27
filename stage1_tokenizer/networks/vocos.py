"""ConvNeXt blocks on the frames of a Fourier transform (backbone=vocos), which a CPU can train.

The decoder is that of Vocos (Siuzdak 2023): blocks at the frames' rate, a linear layer to log-magnitude and phase of
each frequency, and the inverse transform. The encoder mirrors it. A frame has one code.

Legend: B batch, C channels, T samples, t frames, F frequencies, N samples of a window, E width, D latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.config.sound_networks import VocosConfig
from stage1_tokenizer.layers.alike import Layers
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.layers.precision import as_weights_of, at_least_float32, no_autocast
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.networks.base import PictureDecoder, refuse_odd_sizes
from stage1_tokenizer.networks.vqgan import AttentionBlock, ResnetBlock

POWER, QUIET = 0.3, 1e-7
"""The encoder's input is a spectrum whose magnitudes are raised to POWER, with QUIET added to their squares."""


class Block(Recomputable):
    """x + γ·linear(gelu(linear(norm(depthwise convolution(x))))) (Liu et al. 2022)."""

    def __init__(self, config: VocosConfig, blocks: int):
        super().__init__()
        width = config.width
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1 / blocks))

    def forward(self, h_BEt: Tensor) -> Tensor:
        """Same shape."""
        h_BtE = self.norm(self.dwconv(h_BEt).mT)
        return h_BEt + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(h_BtE)))).mT


def attending(width: int) -> nn.Module:
    """Residual blocks with attention to all frames amid them, and a norm (Ji et al. 2024)."""
    layers = Layers(1)
    first, second, third, fourth = (ResnetBlock(layers, width, width) for _ in range(4))
    return nn.Sequential(first, second, AttentionBlock(layers, width), third, fourth, Norm(width, swish=False))


MIXERS: dict[str, Callable[[int], nn.Module]] = {"attention": attending}
"""What may stand before a decoder's blocks; a table, so that releases without it don't carry it."""


class Backbone(nn.Module):
    """A convolution to the width, blocks, norms, and a linear layer."""

    def __init__(self, config: VocosConfig, inputs: int, outputs: int, blocks: int, attention: bool = False):
        super().__init__()
        self.embed = nn.Conv1d(inputs, config.width, 7, padding=3)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.blocks = nn.ModuleList(Block(config, blocks) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(config.width, eps=1e-6)
        self.out = nn.Linear(config.width, outputs)
        self.apply(_initialise)
        self.mixer = MIXERS["attention"](config.width) if attention else None

    def forward(self, h_BIt: Tensor) -> Tensor:
        """(B, inputs, t) to (B, outputs, t)."""
        h_BEt = self.embed(h_BIt)
        h_BEt = h_BEt if self.mixer is None else self.mixer(h_BEt)
        h_BEt = self.norm(h_BEt.mT).mT
        for block in self.blocks:
            h_BEt = block(h_BEt)
        return self.out(self.norm_out(h_BEt.mT)).mT


class Encoder(nn.Module):
    """Waveforms to latents."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.settings, self.stride = config.vocos, config.stride
        inputs = config.in_channels * 2 * frequencies(self.settings)
        self.backbone = Backbone(self.settings, inputs, config.encoder_channels, self.settings.blocks[0])

    def forward(self, x_BCT: Tensor) -> Tensor:
        """(B, C, T) to (B, encoder_channels, t); ValueError unless T is a multiple of the hop."""
        refuse_odd_sizes(x_BCT.shape[2:], self.stride)
        return self.backbone(spectrum(x_BCT, self.settings).to(x_BCT.dtype))


class Decoder(PictureDecoder):
    """Latents to waveforms."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        settings = config.vocos
        outputs = config.in_channels * 2 * frequencies(settings)
        self.backbone = Backbone(settings, config.z_channels, outputs, settings.blocks[1], settings.attention)
        self.conv_out = InverseTransform(settings)

    def features(self, z_BDt: Tensor) -> Tensor:
        """Latents (B, z_channels, t) to log-magnitudes and phases, (B, C·2·F, t)."""
        return self.backbone(z_BDt)

    def forward(self, z_BDt: Tensor) -> Tensor:
        """Latents (B, z_channels, t) to waveforms (B, C, T) in the type of the weights."""
        return as_weights_of(self, super().forward(z_BDt))


class InverseTransform(nn.Module):
    """Log-magnitudes and phases to waveforms: windowed frames, added up where they overlap."""

    def __init__(self, settings: VocosConfig):
        super().__init__()
        self.settings = settings

    def forward(self, h_BSt: Tensor) -> Tensor:
        """(B, C·2·F, t) to (B, C, hop·t), computed in at least float32."""
        window, hop = self.settings.window, self.settings.hop
        with no_autocast(h_BSt):
            h_BSt, samples = at_least_float32(h_BSt), hop * h_BSt.shape[-1]
            log_BCFt, phase_BCFt = h_BSt.unflatten(1, (-1, 2, frequencies(self.settings))).unbind(2)
            loudest = math.log(self.settings.loudest or window / 2)
            bins_BCFt = torch.polar(log_BCFt.clamp(max=loudest).exp(), phase_BCFt)
            shape_N1 = hann(window, h_BSt)[:, None]
            frames_BCNt = torch.fft.irfft(bins_BCFt, window, dim=2) * shape_N1
            total_BCT = _added(frames_BCNt.flatten(0, 1), hop).unflatten(0, frames_BCNt.shape[:2])
            weight_T = _added((shape_N1**2).expand(1, -1, h_BSt.shape[-1]), hop)[0]
            first = (window - hop) // 2
            waves_BCT = (total_BCT / weight_T.clamp_min(QUIET))[..., first : first + samples]
        return waves_BCT


def spectrum(x_BCT: Tensor, settings: VocosConfig) -> Tensor:
    """Real and imaginary parts of a waveform's compressed spectrum, (B, C·2·F, t), at least float32."""
    side = (settings.window - settings.hop) // 2
    with no_autocast(x_BCT):
        padded = F.pad(at_least_float32(x_BCT), (side, side))
        frames_BCtN = padded.unfold(-1, settings.window, settings.hop) * hann(settings.window, padded)
        bins_BCtF2 = torch.view_as_real(torch.fft.rfft(frames_BCtN))
        power_BCtF1 = bins_BCtF2.square().sum(-1, keepdim=True) + QUIET
        compressed = bins_BCtF2 * power_BCtF1 ** ((POWER - 1) / 2)
    return compressed.permute(0, 1, 4, 3, 2).flatten(1, 3)


def frequencies(settings: VocosConfig) -> int:
    """F, from 0 to half the rate."""
    return settings.window // 2 + 1


def hann(window: int, like: Tensor) -> Tensor:
    """A periodic Hann window (N,), in the tensor's type and on its device."""
    return torch.hann_window(window, device=like.device, dtype=like.dtype)


def _added(frames_BNt: Tensor, hop: int) -> Tensor:
    """Frames (B, N, t) at distances of `hop`, added up: (B, N + hop·(t − 1))."""
    window, count = frames_BNt.shape[1:]
    length = window + hop * (count - 1)
    return F.fold(frames_BNt, (1, length), (1, window), stride=(1, hop))[:, 0, 0]


def _initialise(module: nn.Module) -> None:
    """As in Vocos: truncated normal weights of standard deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
