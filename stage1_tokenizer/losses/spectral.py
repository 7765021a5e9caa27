"""Distances between spectra of waveforms, each one value per sample: DAC's and EnCodec's definitions.

Training takes them as terms (`sound.py`), evaluations as figures. Sources: DAC (Kumar et al. 2023) as its code has it,
EnCodec (Défossez et al. 2022) as audiocraft's code has it, multi-resolution STFT (Yamamoto et al. 2020).
Legend: B batch, C channels, T samples, F frequencies, N frames, M mel bands.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.layers.spectrum import mel_filters, reflected, spectrum

Definition = Literal["dac", "encodec"]

FLOOR = 1e-5
"""Smallest magnitude (dac), or what is added (encodec), before logarithms of mel bands and DAC's spectra."""

MEL_WINDOWS: dict[str, tuple[int, ...]] = {
    "dac": (32, 64, 128, 256, 512, 1024, 2048),
    "encodec": (64, 128, 256, 512, 1024),
}
"""Windows of the mel distances."""

STFT_WINDOWS: dict[str, tuple[int, ...]] = {"dac": (2048, 512), "encodec": (1024, 2048, 512)}
"""Windows of the STFT distances."""

_HOPS = {512: (50, 240), 1024: (120, 600), 2048: (240, 1200)}
"""Of the multi-resolution STFT: hop and Hann window of frames of so many samples (Yamamoto et al. 2020)."""
_STFT_FLOOR, _EPSILON = 1e-7, torch.finfo(torch.float32).eps


def default_mels(definition: str, windows: Sequence[int]) -> list[int]:
    """Mel bands for each window: dac 5 for 32 samples, in proportion; encodec 64."""
    return [max(1, window * 5 // 32) if definition == "dac" else 64 for window in windows]


def mel_distance(
    y_BCT: Tensor,
    x_BCT: Tensor,
    sample_rate: int,
    definition: Definition = "dac",
    windows: Sequence[int] = (),
    mels: Sequence[int] = (),
) -> Tensor:
    """Distance of mel spectra at several resolutions, of each sample, (B,).

    dac: the sum over windows of mean |log10 max(mel, 1e-5)| of magnitudes, Slaney's filters from 0 Hz, hop a quarter,
    centred frames. encodec: the mean over windows of half of mean |Δ mel| + mean (Δ log10(1e-5 + mel))² of powers, htk
    filters from 64 Hz, normalised by the window's energy.
    """
    windows = windows or MEL_WINDOWS[definition]
    mels = mels or default_mels(definition, windows)
    y_BCT, x_BCT = at_least_float32(y_BCT), at_least_float32(x_BCT)
    total = y_BCT.new_zeros(len(y_BCT))
    for window, bands in zip(windows, mels, strict=True):
        if definition == "dac":
            y, x = (_dac_mel(wave, sample_rate, window, bands).clamp_min(FLOOR).log10() for wave in (y_BCT, x_BCT))
            total = total + _mean_of_each((y - x).abs())
        else:
            y, x = (_encodec_mel(wave, sample_rate, window, bands) for wave in (y_BCT, x_BCT))
            logs = (FLOOR + y).log10() - (FLOOR + x).log10()
            total = total + (_mean_of_each((y - x).abs()) + _mean_of_each(logs.square())) / (2 * len(windows))
    return total


def stft_distance(y_BCT: Tensor, x_BCT: Tensor, definition: Definition = "dac", windows: Sequence[int] = ()) -> Tensor:
    """Distance of spectra at several resolutions, of each sample, (B,).

    dac: the sum over windows of mean |Δ log10 max(|X|, 1e-5)²| + mean |Δ |X||, hop a quarter. encodec: the mean over
    frames of `windows` samples (hop 120 and Hann 600 for 1024, others nearly in proportion) of half the spectral
    convergence ‖|X| − |Y|‖/‖|X|‖ of each sample plus half of mean |Δ ln |X||; audiocraft takes it of a whole batch.
    """
    windows = windows or STFT_WINDOWS[definition]
    y_BCT, x_BCT = at_least_float32(y_BCT), at_least_float32(x_BCT)
    total = y_BCT.new_zeros(len(y_BCT))
    for window in windows:
        if definition == "dac":
            y, x = (spectrum(wave, window).abs() for wave in (y_BCT, x_BCT))
            logs = 2 * (y.clamp_min(FLOOR).log10() - x.clamp_min(FLOOR).log10())
            total = total + _mean_of_each(logs.abs()) + _mean_of_each((y - x).abs())
        else:
            y, x = (_floored(wave, window) for wave in (y_BCT, x_BCT))
            gap = torch.linalg.vector_norm((x - y).flatten(1), dim=1)
            convergence = gap / (torch.linalg.vector_norm(x.flatten(1), dim=1) + _EPSILON)
            logs = ((_EPSILON + y).log() - (_EPSILON + x).log()).abs()
            total = total + (convergence + _mean_of_each(logs)) / (2 * len(windows))
    return total


def _mean_of_each(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


@functools.cache
def _filters(
    sample_rate: int, window: int, mels: int, definition: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    plain = definition == "encodec"
    filter_MF = mel_filters(sample_rate, window, mels, low=64 if plain else 0, scale="htk" if plain else "slaney")
    return filter_MF.to(device, dtype)


def _dac_mel(x_BCT: Tensor, sample_rate: int, window: int, mels: int) -> Tensor:
    """Mel bands of magnitudes, (B, C, M, N)."""
    return _filters(sample_rate, window, mels, "dac", x_BCT.device, x_BCT.dtype) @ spectrum(x_BCT, window).abs()


def _encodec_mel(x_BCT: Tensor, sample_rate: int, window: int, mels: int) -> Tensor:
    """Mel bands of powers over the window's energy, (B, C, M, N); zeros fill the last frame."""
    hop = window // 4
    pad, length = (window - hop) // 2, x_BCT.shape[-1]
    frames = max(-(-(length + 2 * pad - window) // hop), 0) + 1
    rest = (frames - 1) * hop + window - (length + 2 * pad)
    z = spectrum(F.pad(reflected(x_BCT, pad, pad), (0, rest)), window, hop, pad=(0, 0))
    power = _power(z) / (window * 3 / 8)  # the sum of squares of a periodic Hann window
    return _filters(sample_rate, window, mels, "encodec", x_BCT.device, x_BCT.dtype) @ power


def _floored(x_BCT: Tensor, window: int) -> Tensor:
    """Magnitudes of a frame of `window` samples, at least 3e-4."""
    hop, width = _HOPS.get(window, (max(window * 120 // 1024, 1), max(window * 600 // 1024, 1)))
    return _power(spectrum(x_BCT, window, hop, width=width)).clamp_min(_STFT_FLOOR).sqrt()


def _power(z: Tensor) -> Tensor:
    return z.real.square() + z.imag.square()
