"""Layers of waveform networks, which can go on where they ended: with `past`, sound comes in parts.

`past` keeps, for each layer, what its next call needs of the inputs of its last ones; it is empty before the first.
Causal layers then give for all parts together what they give for the whole.

Legend: B batch, C channels (I in, O out), T samples or frames.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Past: TypeAlias = dict[nn.Module, Any]
"""What layers keep between the parts of a sound."""

Padding = Literal["zeros", "reflect", "replicate"]
"""What lies beyond the ends of a sound."""


class Convolution1d(nn.Module):
    """A convolution that divides the length by its stride: causal, or centred, the left side longer if they differ."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        causal: bool,
        padding: Padding = "zeros",
        normed: bool = False,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        beyond = (kernel - 1) * dilation + 1 - stride
        self.left = beyond if causal else beyond - beyond // 2
        self.right = beyond - self.left
        self.padding: Padding = padding
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, dilation=dilation, bias=bias)
        if normed:
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

    With `shorter`, an odd stride that isn't causal gives one sample less, as padding=⌈stride/2⌉ does (DAC).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        causal: bool,
        shorter: bool = False,
        normed: bool = False,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        self.stride = stride
        self.left = 0 if causal else stride - stride // 2
        self.right = self.left if shorter and not causal else stride - self.left
        self.conv = nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride=stride, groups=groups, bias=bias)
        if normed:
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


def pad(h_BCT: Tensor, left: int, right: int, how: Padding) -> Tensor:
    """(B, C, T) to (B, C, left + T + right). What is too short to be reflected is followed by zeros first."""
    if how != "reflect":
        return F.pad(h_BCT, (left, right), "constant" if how == "zeros" else how)
    more = max(max(left, right) + 1 - h_BCT.shape[-1], 0)
    h_BCT = F.pad(F.pad(h_BCT, (0, more)), (left, right), "reflect")
    return h_BCT[..., : h_BCT.shape[-1] - more]
