"""Spectra of waveforms and mel filters, in at least float32 whatever autocast says.

Legend: B batch, C channels, T samples, F frequencies (window // 2 + 1), N frames, M mel bands.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.layers.precision import at_least_float32, no_autocast

MelScale = Literal["slaney", "htk"]
"""slaney: linear below 1 kHz, filters of equal area (librosa's default); htk: 2595 log10(1 + f/700), of equal height
(torchaudio's default)."""


@functools.cache
def hann(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The periodic Hann window (length,)."""
    return torch.hann_window(length, device=device, dtype=dtype)


def reflected(x_BCT: Tensor, left: int, right: int) -> Tensor:
    """(B, C, left + T + right), padded by reflection. A signal that is too short for it is followed by zeros first."""
    length = x_BCT.shape[-1]
    short = max(max(left, right) + 1 - length, 0)
    if short:
        x_BCT = F.pad(x_BCT, (0, short))
    return F.pad(x_BCT, (left, right), mode="reflect")[..., : left + length + right]


def spectrum(
    x_BCT: Tensor, window: int, hop: int | None = None, *, pad: tuple[int, int] | None = None, width: int | None = None
) -> Tensor:
    """The complex short-time spectrum (B, C, F, N), with a Hann window; not normalised.

    `hop` is a quarter of the window by default. `pad` are the samples of reflection on both sides, by default half a
    window (torch.stft's center). A Hann window of `width` lies in the middle of the `window` samples of a frame. There
    is always at least one frame: shorter signals are followed by zeros.
    """
    left, right = (window // 2, window // 2) if pad is None else pad
    x = reflected(at_least_float32(x_BCT), left, right)
    x = F.pad(x, (0, max(window - x.shape[-1], 0)))
    width = width or window
    with no_autocast(x):
        z = torch.stft(
            x.flatten(0, 1),
            window,
            hop or window // 4,
            width,
            hann(width, x.device, x.dtype),
            center=False,
            return_complex=True,
        )
    return z.unflatten(0, x_BCT.shape[:2])


@functools.cache
def mel_filters(
    sample_rate: int, window: int, mels: int, *, low: float = 0.0, high: float | None = None, scale: MelScale = "slaney"
) -> Tensor:
    """Triangular filters filter_MF, float64, from `low` to `high` Hz (null: half the sample rate).

    slaney's have an area of 1 Hz each, htk's a height of 1. Bands narrower than a bin of the spectrum may be empty.
    """
    high = sample_rate / 2 if high is None else high
    first, last = (_to_mel(frequency, scale) for frequency in (low, high))
    steps = [first + (last - first) * number / (mels + 1) for number in range(mels + 2)]
    edges = torch.tensor([_to_hertz(mel, scale) for mel in steps], dtype=torch.float64)
    bins_F = torch.linspace(0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)
    widths = edges.diff()
    rising = (bins_F - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - bins_F) / widths[1:, None]
    filter_MF = torch.minimum(rising, falling).clamp_min(0)
    return filter_MF * (2 / (edges[2:] - edges[:-2]))[:, None] if scale == "slaney" else filter_MF


_LINEAR_HERTZ, _BREAK_MEL = 200 / 3, 15.0
"""Slaney's scale: Hz per mel below 1 kHz, which is 15 mel; above, 27 mel are a factor of 6.4."""


def _to_mel(hertz: float, scale: MelScale) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + hertz / 700)
    return hertz / _LINEAR_HERTZ if hertz < 1000 else _BREAK_MEL + 27 * math.log(hertz / 1000) / math.log(6.4)


def _to_hertz(mel: float, scale: MelScale) -> float:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return mel * _LINEAR_HERTZ if mel < _BREAK_MEL else 1000 * 6.4 ** ((mel - _BREAK_MEL) / 27)
