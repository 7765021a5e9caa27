"""A tokenizer of pictures on each frame, with layers along time at the latents (backbone=movq): Emu3's.

The decoder's norms are modulated by the latents, as in MoVQ (Zheng et al. 2022; Emu3: Wang et al. 2024). Convolutions
along time see zeros before the clip, and none looks ahead, but frames share a code: a clip has k·stride of them. The
published batch norms along time are affine maps here, as they are after training.

Legend: B batch, C channels, D latent channels, T frames, H W pixels, t h w latent grid, N frames of a batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.config.video_networks import VideoNetConfig
from stage1_tokenizer.layers.alike import Layers
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.layers.video import TimeConv3d, clips_of, frames_of
from stage1_tokenizer.networks.base import PictureDecoder, refuse_odd_sizes
from stage1_tokenizer.networks.vqgan import Decoder as VqganDecoder
from stage1_tokenizer.networks.vqgan import Encoder as VqganEncoder


class FrontConv3d(nn.Conv3d):
    """A convolution with two frames of zeros before the clip, and zeros around frames."""

    def __init__(self, channels: int, kernel: tuple[int, int], stride: int = 1):
        """`kernel`: in time, and in height and width; `stride` in time."""
        widths, pad = (kernel[0], kernel[1], kernel[1]), kernel[1] // 2
        super().__init__(channels, channels, widths, stride=(stride, 1, 1), padding=(0, pad, pad))

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T / stride, H, W)."""
        return super().forward(F.pad(h_BCTHW, (0, 0, 0, 0, 2, 0)))


class Affine(nn.Module):
    """A factor and an offset for each channel, with swish."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """Same shape."""
        shape = (-1, 1, 1, 1)
        return F.silu(h_BCTHW * self.weight.view(shape) + self.bias.view(shape))


class TimeBlock(Recomputable):
    """x + conv(swish(affine(conv(swish(affine(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = Affine(channels), FrontConv3d(channels, (3, 3))
        self.norm2, self.conv2 = Affine(channels), FrontConv3d(channels, (3, 3))

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """Same shape."""
        return h_BCTHW + self.conv2(self.norm2(self.conv1(self.norm1(h_BCTHW))))


class GuidedNorm(nn.Module):
    """scale(z)·norm(h) + offset(z), z the latents of the frame, enlarged to its size; by default with swish."""

    def __init__(self, latent_channels: int, channels: int, *, swish: bool):
        super().__init__()
        self.norm, self.swish = Norm(channels, swish=False), swish
        self.scale, self.offset = (nn.Conv2d(latent_channels, channels, 1) for _ in range(2))
        self.guide: Tensor | None = None

    def forward(self, h_NCHW: Tensor) -> Tensor:
        """Same shape."""
        assert self.guide is not None
        z_NDHW = F.interpolate(self.guide, size=h_NCHW.shape[2:], mode="nearest")
        h_NCHW = self.norm(h_NCHW) * self.scale(z_NDHW) + self.offset(z_NDHW)
        return F.silu(h_NCHW) if self.swish else h_NCHW


class GuidedLayers(Layers):
    """The layers of pictures, with guided norms."""

    def __init__(self, latent_channels: int):
        super().__init__(2)
        self.latent_channels = latent_channels

    def norm(self, channels: int, *, swish: bool = True) -> nn.Module:
        """A guided one."""
        return GuidedNorm(self.latent_channels, channels, swish=swish)


class Encoder(nn.Module):
    """Clips to latents."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.stride, channels = config.stride, config.z_channels
        self.frames = VqganEncoder(of_frames(config))
        self.down = nn.ModuleList(FrontConv3d(channels, (4, 3), 2) for _ in range(config.time_strides.count(2)))
        self.stack = nn.ModuleList(TimeBlock(channels) for _ in range(config.res_blocks))
        self.quant_conv = FrontConv3d(channels, (3, 1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, z_channels, t, h, w); ValueError unless the sizes are multiples of the stride."""
        refuse_odd_sizes(x_BCTHW.shape[2:], self.stride)
        h = clips_of(self.frames(frames_of(x_BCTHW)), x_BCTHW.shape[2])
        for conv in self.down:
            h = F.silu(conv(h))
        for block in self.stack:
            h = block(h)
        return self.quant_conv(h)


class Decoder(PictureDecoder):
    """Latents to clips."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels = config.z_channels
        self.post_quant_conv = FrontConv3d(channels, (3, 1))
        self.stack = nn.ModuleList(TimeBlock(channels) for _ in range(config.res_blocks))
        self.up = nn.ModuleList(FrontConv3d(channels, (3, 3)) for _ in range(config.time_strides.count(2)))
        self.frames = VqganDecoder(of_frames(config), GuidedLayers(channels))
        del self.frames.conv_out
        self.conv_out = TimeConv3d((config.widths[0], config.in_channels), (1, 3), causal=True)

    def features(self, z_BDthw: Tensor) -> Tensor:
        """(B, z_channels, t, h, w) to the input of the last layer, (B, channels, T, H, W)."""
        h = torch.cat([self.post_quant_conv(z_BDthw), z_BDthw])  # what is decoded, and what guides it
        for block in self.stack:
            h = block(h)
        for conv in self.up:
            h = F.silu(conv(h.repeat_interleave(2, dim=2)))
        h_NDhw, guide_NDhw = (frames_of(part) for part in h.chunk(2))
        norms = [part for part in self.frames.modules() if isinstance(part, GuidedNorm)]
        for norm in norms:
            norm.guide = guide_NDhw
        features = clips_of(self.frames.features(h_NDhw), h.shape[2])
        for norm in norms if not torch.is_grad_enabled() else []:  # else recomputed activations need it
            norm.guide = None
        return features


def of_frames(config: ModelConfig) -> ModelConfig:
    """The networks for single frames."""
    return replace(config, backbone="conv", spatial_dims=2, video=VideoNetConfig())
