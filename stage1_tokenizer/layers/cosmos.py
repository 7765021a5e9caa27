"""The layers of Cosmos tokenizers for videos (NVIDIA 2025, arXiv 2501.03575), after `layers.video`.

Legend: B batch, C channels, T frames, H W pixels, N pixels of a frame, S frames that are attended to.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.video_networks import decoder_strides
from stage1_tokenizer.layers.alike import Down, Up
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.layers.video import FactorisedConv3d, FrameNorm, Skipping, TimeConv3d, VideoLayers

conv3d = partial(TimeConv3d, causal=True)


class TimeAttention(Recomputable):
    """x + attention of each pixel to itself in this frame and those before, one head as wide as the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = FrameNorm(channels, swish=False, groups=1)
        self.q, self.k, self.v, self.proj_out = (nn.Conv3d(channels, channels, 1) for _ in range(4))
        self.past: dict[Any, Any] | None = None

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """Same shape."""
        h = self.norm(h_BCTHW)
        q_BNTC, k_BNSC, v_BNSC = (part(h).flatten(3).permute(0, 3, 2, 1) for part in (self.q, self.k, self.v))
        if self.past is not None:
            before = self.past.get(self, [k_BNSC[:, :, :0]] * 2)
            k_BNSC, v_BNSC = (torch.cat(pair, dim=2) for pair in zip(before, (k_BNSC, v_BNSC), strict=True))
            self.past[self] = [k_BNSC, v_BNSC]
        frames, every = q_BNTC.shape[2], k_BNSC.shape[2]
        seen_TS = torch.ones(frames, every, dtype=torch.bool, device=h.device).tril(every - frames)
        mixed_BNTC = F.scaled_dot_product_attention(q_BNTC, k_BNSC, v_BNSC, attn_mask=seen_TS)
        return h_BCTHW + self.proj_out(mixed_BNTC.permute(0, 3, 2, 1).unflatten(3, h_BCTHW.shape[3:]))


class HybridDownsample(nn.Module):
    """A convolution beside the mean, for pixels and then for frames, and a mixture of channels."""

    def __init__(self, channels: int, strides: tuple[int, int]):
        super().__init__()
        pair = (channels, channels)
        self.space = conv3d(pair, (1, 3), (1, 2), padding=0) if strides[1] == 2 else None
        self.time = conv3d(pair, (3, 1), (2, 1), padding=0) if strides[0] == 2 else None
        self.mix = nn.Conv3d(channels, channels, 1)

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T / stride, …)."""
        if self.space is not None:
            means = F.avg_pool2d(h_BCTHW.flatten(1, 2), 2).unflatten(1, h_BCTHW.shape[1:3])
            h_BCTHW = self.space(F.pad(h_BCTHW, (0, 1, 0, 1))) + means
        if self.time is not None:
            whole = self.time.padded(h_BCTHW)  # with the one or two frames before, of which the mean needs one
            every = whole[:, :, whole.shape[2] - 2 * ((h_BCTHW.shape[2] + 1) // 2) :]
            h_BCTHW = nn.Conv3d.forward(self.time, whole) + (every[:, :, ::2] + every[:, :, 1::2]) / 2
        return self.mix(h_BCTHW)


class HybridUpsample(Skipping):
    """A convolution beside the copies, for frames and then for pixels, and a mixture of channels."""

    def __init__(self, channels: int, strides: tuple[int, int]):
        super().__init__(causal=True)
        pair = (channels, channels)
        self.time = conv3d(pair, (3, 1), padding=0) if strides[0] == 2 else None
        self.space = conv3d(pair, (1, 3)) if strides[1] == 2 else None
        self.mix = nn.Conv3d(channels, channels, 1)

    def forward(self, h_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, factor·T, …), the first frame to one."""
        if self.time is not None:
            h_BCTHW = self.dropped(h_BCTHW.repeat_interleave(2, dim=2), 1)
            h_BCTHW = self.time(h_BCTHW) + h_BCTHW
        if self.space is not None:
            h_BCTHW = h_BCTHW.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
            h_BCTHW = self.space(h_BCTHW) + h_BCTHW
        return self.mix(h_BCTHW)


class CosmosLayers(VideoLayers):
    """Builds these layers."""

    def convolution(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Module:
        """A factorised convolution, or one of width 1."""
        if kernel == 1:
            return nn.Conv3d(inputs, outputs, 1, bias=bias)
        space, time = (
            conv3d((inputs, outputs), (1, 3), bias=bias),
            conv3d((outputs, outputs), (3, 1), padding=0, bias=bias),
        )
        return FactorisedConv3d(space, time)

    def outermost(self, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
        """As any other."""
        return self.convolution(inputs, outputs, 3, bias=bias)

    def norm(self, channels: int, *, swish: bool = True) -> nn.Module:
        """Of each frame, over all channels."""
        return FrameNorm(channels, swish=swish, groups=1)

    def attention(self, block: nn.Module, channels: int) -> nn.Module:
        """Within frames, then along time."""
        return nn.Sequential(block, TimeAttention(channels))

    def downsample(self, number: int, channels: int, how: Down) -> nn.Module:
        """Of every two pixels and, with strides of time, frames one."""
        strides = self.strides[number]
        return nn.Identity() if strides == (1, 1) else HybridDownsample(channels, strides)

    def upsample(self, number: int, channels: int, how: Up) -> nn.Module:
        """The decoder's change of resolution before level `number`; its order need not be the encoder's."""
        strides = decoder_strides(self.strides)[number]
        return nn.Identity() if strides == (1, 1) else HybridUpsample(channels, strides)
