"""The layers of networks for videos, which treat time apart from height and width (model.video).

Causal layers can go on where they ended, as those of `layers.waveform` do: with `past`, a clip comes in parts. The
first frame begins it alone, the stride of time divides the number of those that follow. Without `past` a call has a
whole clip.

Legend: B batch, C channels (I in, O out), T frames, H W pixels, t h w latent grid.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.model import ModelConfig, norm_groups
from stage1_tokenizer.layers.alike import Down, Layers, Up
from stage1_tokenizer.layers.convolution import depth_to_space
from stage1_tokenizer.layers.norm import group_norm


class TimeConv3d(nn.Conv3d):
    """A convolution with zeros around height and width; in time causal, the first frame repeated before it, or `zeros`.

    Without `causal`, zeros are around time too, or with a stride behind it.
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        *,
        causal: bool,
        zeros: bool = False,
        padding: int = 1,
        bias: bool = True,
    ):
        """`sizes`: inputs, outputs; kernel and stride: in time, and in height and width, whose padding is `padding`."""
        widths, steps = (kernel[0], kernel[1], kernel[1]), (stride[0], stride[1], stride[1])
        super().__init__(*sizes, widths, stride=steps, padding=(0, padding, padding), bias=bias)
        self.causal, self.zeros, self.beyond = causal, zeros, kernel[0] - stride[0]
        self.past: dict[Any, Any] | None = None

    def forward(self, h_BITHW: Tensor) -> Tensor:
        """(B, I, T, H, W) to (B, O, T / stride, …); causal, T is 1 + a multiple of the stride of time."""
        return super().forward(self.padded(h_BITHW))

    def padded(self, h_BITHW: Tensor) -> Tensor:
        """The input with the frames before and behind it that the convolution reads."""
        if not self.causal:
            ahead = self.beyond // 2
            return F.pad(h_BITHW, (0, 0, 0, 0, ahead, self.beyond - ahead))
        if self.kernel_size[0] == 1:
            return h_BITHW
        before = None if self.past is None else self.past.get(self)
        if before is None:
            first = h_BITHW[:, :, :1] * 0 if self.zeros else h_BITHW[:, :, :1]
            before = first.expand(-1, -1, self.kernel_size[0] - 1, -1, -1)
        whole = torch.cat([before, h_BITHW], dim=2)
        if self.past is not None:
            self.past[self] = whole[:, :, whole.shape[2] - self.beyond :]
        return whole


class FactorisedConv3d(nn.Module):
    """A convolution of each frame, then one of each pixel along time."""

    def __init__(self, space: TimeConv3d, time: TimeConv3d):
        super().__init__()
        self.space, self.time = space, time

    def forward(self, h_BITHW: Tensor) -> Tensor:
        """(B, I, T, H, W) to (B, O, T, H, W), less where there are strides."""
        return self.time(self.space(h_BITHW))


class FrameNorm(nn.GroupNorm):
    """`layers.norm.Norm` of each frame by itself, so that no frame depends on later ones."""

    def __init__(self, channels: int, *, swish: bool = True, groups: int | None = None):
        super().__init__(groups or norm_groups(channels), channels, eps=1e-6)
        self.swish = swish

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """Same shape and type as the input."""
        frames = group_norm(frames_of(h_BCTHW), self.num_groups, self.weight, self.bias, self.eps)
        return clips_of(F.silu(frames) if self.swish else frames, h_BCTHW.shape[2])


class Skipping(nn.Module):
    """What multiplies time, for causal networks: the first frame of a clip stays one, so copies of it are dropped."""

    def __init__(self, *, causal: bool):
        super().__init__()
        self.causal = causal
        self.past: dict[Any, Any] | None = None

    def dropped(self, h_BCTHW: Tensor, count: int, kept: int = 0) -> Tensor:
        """Without `count` frames after the first `kept`, if the clip begins here and the network is causal."""
        begins = self.causal and (self.past is None or self not in self.past)
        if self.past is not None:
            self.past[self] = True
        if not (begins and count):
            return h_BCTHW
        rest = h_BCTHW[:, :, kept + count :]
        return torch.cat([h_BCTHW[:, :, :kept], rest], dim=2) if kept else rest


class VideoUpsample(Skipping):
    """Frames and pixels repeated, or by depth to space, with a convolution."""

    def __init__(self, conv: nn.Module, factors: tuple[int, int], how: Up, *, causal: bool):
        super().__init__(causal=causal)
        self.conv, self.how, self.factors = conv, how, (factors[0], factors[1], factors[1])

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, factor·T, …); causal, the first frame gives one."""
        skipped = self.factors[0] - 1
        if self.how == "shuffle":
            return self.dropped(depth_to_space(self.conv(h_BCTHW), self.factors), skipped, kept=1)
        factors = [float(factor) for factor in self.factors]
        return self.conv(self.dropped(F.interpolate(h_BCTHW, scale_factor=factors, mode="nearest"), skipped))


class VideoDownsample(nn.Module):
    """A convolution with strides, zeros behind or around each frame."""

    def __init__(self, conv: nn.Module, *, pad: bool):
        super().__init__()
        self.conv, self.pad = conv, pad

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T / stride, …)."""
        return self.conv(F.pad(h_BCTHW, (0, 1, 0, 1)) if self.pad else h_BCTHW)


class VideoPool(nn.Module):
    """The means of pixels; causal, of every stride frames the last one: the first frame, then frame `stride`, …"""

    def __init__(self, strides: tuple[int, int], *, causal: bool):
        super().__init__()
        self.strides, self.causal = strides, causal

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T / stride, …)."""
        time, space = self.strides
        if self.causal:  # an odd number of frames has the first one of the clip
            h_BCTHW, time = h_BCTHW[:, :, (h_BCTHW.shape[2] + 1) % time :: time], 1
        pooled = F.avg_pool2d(h_BCTHW.flatten(1, 2), space).unflatten(1, h_BCTHW.shape[1:3])
        return pooled if time == 1 else pooled.unflatten(2, (-1, time)).mean(3)


class HaarPatches(Skipping):
    """Blocks of side³ pixels to channels: sums and differences in each axis (Haar's wavelets), the first their mean.

    Causal, the first frame is repeated to fill a block of its own.
    """

    def __init__(self, side: int, *, causal: bool):
        super().__init__(causal=causal)
        self.side = side
        signs = torch.ones(1, 1)
        while len(signs) < side:
            signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
        self.signs: Tensor
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, side³·C, T/side, H/side, W/side)."""
        side = self.side
        if self.causal and x_BCTHW.shape[2] % side == 1:
            first = x_BCTHW[:, :, :1].expand(-1, -1, side - 1, -1, -1)
            x_BCTHW = torch.cat([first, x_BCTHW], dim=2)
        batch, channels, *sizes = x_BCTHW.shape
        grid = [size // side for size in sizes]
        parts = x_BCTHW.reshape(batch, channels, *(part for size in grid for part in (size, side)))
        parts = torch.einsum("bctxhywz,ix,jy,kz->bijkcthw", parts, *[self.signs.to(parts) / side] * 3)
        return parts.reshape(batch, -1, *grid)

    def inverse(self, h_BCthw: Tensor) -> Tensor:
        """(B, side³·C, t, h, w) to (B, C, T, H, W)."""
        side = self.side
        parts = h_BCthw.unflatten(1, (side, side, side, -1))
        parts = torch.einsum("bijkcthw,ix,jy,kz->bctxhywz", parts, *[self.signs.to(parts)] * 3)
        sizes = [side * size for size in h_BCthw.shape[2:]]
        return self.dropped(parts.reshape(len(h_BCthw), -1, *sizes), side - 1)


class HaarPixels(nn.Module):
    """The last layer after the last convolution: patches to pixels."""

    def __init__(self, side: int, *, causal: bool):
        super().__init__()
        self.patches = HaarPatches(side, causal=causal)

    def forward(self, h_BCthw: Tensor) -> Tensor:
        """(B, side³·C, t, h, w) to (B, C, T, H, W)."""
        return self.patches.inverse(h_BCthw)


class VideoLayers(Layers):
    """Builds the layers of model.video."""

    def __init__(self, config: ModelConfig):
        super().__init__(3)
        self.video = config.video
        self.causal, self.by_frame = config.video.first_alone, config.video.apart
        self.strides = list(zip(config.time_strides, config.space_strides, strict=True))

    def _wide(
        self,
        sizes: tuple[int, int],
        time: int = 3,
        strides: tuple[int, int] = (1, 1),
        *,
        split: bool | None = None,
        padding: int = 1,
        bias: bool = True,
    ) -> nn.Module:
        """A convolution of width 3, and of width `time` in time; in two, where `split` (by default, factorised)."""
        split = self.video.factorised if split is None else split
        conv = partial(TimeConv3d, causal=self.causal, zeros=self.video.front, bias=bias)
        if not split or time == 1:
            return conv(sizes, (time, 3), strides, padding=padding)
        space = conv(sizes, (1, 3), (1, strides[1]), padding=padding)
        return FactorisedConv3d(space, conv((sizes[1], sizes[1]), (time, 1), (strides[0], 1), padding=0))

    def _width(self, stride: int) -> int:
        """Of a kernel in time where resolution changes."""
        return 3 if stride == 2 or self.video.front else 1

    def convolution(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Module:
        """A convolution of width 1 or 3 that keeps the size."""
        return nn.Conv3d(inputs, outputs, 1, bias=bias) if kernel == 1 else self._wide((inputs, outputs), bias=bias)

    def outermost(self, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
        """The first or last convolution of a network, never in two."""
        return self._wide((inputs, outputs), split=False, bias=bias)

    def norm(self, channels: int, *, swish: bool = True) -> nn.Module:
        """A group normalization, of each frame if causal."""
        return FrameNorm(channels, swish=swish) if self.by_frame else super().norm(channels, swish=swish)

    def downsample(self, number: int, channels: int, how: Down) -> nn.Module:
        """What divides the resolution by the strides after level `number`."""
        time, space = strides = self.strides[number]
        if strides == (1, 1):
            return nn.Identity()
        if how == "pool":
            return VideoPool(strides, causal=self.causal)
        pad = how == "behind" and space == 2
        conv = self._wide((channels, channels), self._width(time), strides, padding=int(not pad))
        return VideoDownsample(conv, pad=pad)

    def upsample(self, number: int, channels: int, how: Up) -> nn.Module:
        """What undoes `downsample(number)` in the decoder."""
        time, space = strides = self.strides[number]
        if strides == (1, 1):
            return nn.Identity()
        outputs = channels * time * space**2 if how == "shuffle" else channels
        conv = self._wide((channels, outputs), self._width(time))
        return VideoUpsample(conv, strides, how, causal=self.causal)


def frames_of(h_BCTHW: Tensor) -> Tensor:
    """Frames as a batch of pictures, (B·T, C, H, W)."""
    return h_BCTHW.transpose(1, 2).flatten(0, 1)


def clips_of(h_NCHW: Tensor, frames: int) -> Tensor:
    """The inverse of `frames_of`."""
    return h_NCHW.unflatten(0, (-1, frames)).transpose(1, 2)
