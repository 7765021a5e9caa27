"""Layers of waveform networks, which can go on where they ended: with `past`, sound comes in parts.

`past` keeps, for each layer, what its next call needs of the inputs of its last ones; it is empty before the first.
Causal layers then give for all parts together what they give for the whole.

Legend: B batch, C channels (I in, O out), T samples or frames.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from stage1_tokenizer.config.sound_networks import SeanetConfig

Past: TypeAlias = dict[nn.Module, Any]
"""What layers keep between the parts of a sound."""


class Convolution1d(nn.Module):
    """A convolution that divides the length by its stride: causal, or centred, the left side longer if they differ.

    `bare`: without bias and weight norm, and the first and last values lie beyond the ends (Mimi's resampling).
    """

    def __init__(
        self, config: SeanetConfig, sizes: tuple[int, int, int], stride: int = 1, dilation: int = 1, bare: bool = False
    ):
        """`sizes`: inputs, outputs, kernel."""
        super().__init__()
        inputs, outputs, kernel = sizes
        beyond = (kernel - 1) * dilation + 1 - stride
        self.left = beyond if config.causal else beyond - beyond // 2
        self.right = beyond - self.left
        self.padding = "replicate" if bare else config.padding
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, dilation=dilation, bias=not bare)
        if config.weight_norm and not bare:
            weight_norm(self.conv)

    def forward(self, h_BIT: Tensor, past: Past | None = None) -> Tensor:
        """(B, I, T) to (B, O, T / stride)."""
        return self.conv(self.padded(h_BIT, past))

    def padded(self, h_BIT: Tensor, past: Past | None = None) -> Tensor:
        """The input with what lies before and behind it, all that the convolution reads."""
        if past is None:
            return pad(h_BIT, self.left, self.right, self.padding)
        before = past.get(self)
        before = pad(h_BIT, self.left, 0, self.padding)[..., : self.left] if before is None else before
        h_BIT = torch.cat([before, h_BIT], dim=-1)
        past[self] = h_BIT[..., h_BIT.shape[-1] - self.left :]
        return h_BIT


class Upsampling1d(nn.Module):
    """A transposed convolution, twice as wide as its stride, by which it multiplies the length.

    With `odd_trim`, an odd stride gives one sample less, as padding=⌈stride/2⌉ does. `bare`: of each channel by itself,
    without bias and weight norm (Mimi's resampling).
    """

    def __init__(self, config: SeanetConfig, inputs: int, outputs: int, stride: int, *, bare: bool = False):
        super().__init__()
        self.stride = stride
        self.left = 0 if config.causal else stride - stride // 2
        self.right = self.left if config.odd_trim else stride - self.left
        groups = inputs if bare else 1
        self.conv = nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride=stride, groups=groups, bias=not bare)
        if config.weight_norm and not bare:
            weight_norm(self.conv)

    def forward(self, h_BIT: Tensor, past: Past | None = None) -> Tensor:
        """(B, I, T) to (B, O, stride·T)."""
        if past is None:
            h_BOT = self.conv(h_BIT)
            return h_BOT[..., self.left : h_BOT.shape[-1] - self.right]
        before = past.get(self, torch.zeros_like(h_BIT[..., :1]))
        past[self] = h_BIT[..., -1:]
        return self.conv(torch.cat([before, h_BIT], dim=-1))[..., self.stride : -self.stride]


class Lstm(nn.Module):
    """x + LSTM(x), over time."""

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, h_BCT: Tensor, past: Past | None = None) -> Tensor:
        """Same shape."""
        h_TBC, state = self.lstm(h_BCT.permute(2, 0, 1), None if past is None else past.get(self))
        if past is not None:
            past[self] = state
        return h_BCT + h_TBC.permute(1, 2, 0)


class Snake(nn.Module):
    """x + sin²(αx)/α with a learned α for each channel (Ziyin et al. 2020)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, h_BCT: Tensor) -> Tensor:
        """Same shape."""
        return h_BCT + (self.alpha * h_BCT).sin().square() / (self.alpha + 1e-9)


def pad(h_BCT: Tensor, left: int, right: int, how: str) -> Tensor:
    """(B, C, T) to (B, C, left + T + right). What is too short to be reflected is followed by zeros first."""
    if how != "reflect":
        return F.pad(h_BCT, (left, right), "constant" if how == "zeros" else how)
    more = max(max(left, right) + 1 - h_BCT.shape[-1], 0)
    h_BCT = F.pad(F.pad(h_BCT, (0, more)), (left, right), "reflect")
    return h_BCT[..., : h_BCT.shape[-1] - more]
