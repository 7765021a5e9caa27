"""Figures of single clips beside their originals, and what each is, so that results of other definitions are refused.

Legend: B batch (clips of one length), C channels, T samples.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage1_tokenizer.losses.spectral import FLOOR, MEL_WINDOWS, STFT_WINDOWS, default_mels, mel_distance, stft_distance
from stage1_tokenizer.measuring import intelligibility as speech
from stage1_tokenizer.measuring.results import defined

MOST = 100.0
"""dB: largest SI-SDR, that of equal sounds; the smallest is its negative."""

SILENT = 1 / 32768
"""A clip whose samples never leave their mean by this (one step of 16 bits) is silent: it has no SI-SDR, no STOI."""

_WIDE, _NARROW = 16_000, 8_000
"""Rates of PESQ."""


def l1(y_BCT: Tensor, x_BCT: Tensor, rate: int) -> Tensor:
    """Mean absolute difference of samples."""
    return (y_BCT - x_BCT).abs().flatten(1).mean(1)


def si_sdr(y_BCT: Tensor, x_BCT: Tensor, rate: int) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, within ±100, of all channels together; NaN for silence.

    10 log10(‖αx‖²/‖αx − y‖²), α = ⟨y, x⟩/‖x‖², both without their mean. (Le Roux et al. 2019, eq. 5)
    """
    y, x = (one.flatten(1) - one.flatten(1).mean(1, keepdim=True) for one in (y_BCT, x_BCT))
    power_B = x.square().sum(1)
    target = ((y * x).sum(1) / power_B.clamp_min(1e-30))[:, None] * x
    tiny = 1e-30
    ratio_B = 10 * (target.square().sum(1).clamp_min(tiny) / (target - y).square().sum(1).clamp_min(tiny)).log10()
    return torch.where(silent(x_BCT), math.nan, ratio_B.clamp(-MOST, MOST))


def silent(x_BCT: Tensor) -> Tensor:
    """Which clips are silent, (B,) bool: they may have an offset."""
    return (x_BCT - x_BCT.mean(-1, keepdim=True)).abs().flatten(1).amax(1) < SILENT


def _mel(y_BCT: Tensor, x_BCT: Tensor, rate: int) -> Tensor:
    return mel_distance(y_BCT, x_BCT, rate)


def _stft(y_BCT: Tensor, x_BCT: Tensor, rate: int) -> Tensor:
    return stft_distance(y_BCT, x_BCT)


def _pesq(y_BCT: Tensor, x_BCT: Tensor, rate: int) -> Tensor:
    """PESQ of the channels' mean; NaN where it finds no speech."""
    module = importlib.import_module("pesq")
    at = rate if rate in (_WIDE, _NARROW) else _WIDE

    def one(x_T: np.ndarray, y_T: np.ndarray) -> float:
        x_T, y_T = (speech.resampled(wave, rate, at) for wave in (x_T, y_T))
        try:
            return float(module.pesq(at, x_T, y_T, "nb" if at == _NARROW else "wb"))
        except module.PesqError:
            return math.nan

    return _of_speech(y_BCT, x_BCT, one)


def _of_speech(y_BCT: Tensor, x_BCT: Tensor, one: Callable[[np.ndarray, np.ndarray], Any]) -> Tensor:
    """A figure, or several, (B,) or (B, M), of the channels' mean of each clip; NaN where the original is silent."""
    quiet_B = silent(x_BCT).tolist()
    waves = [wave.mean(1).double().cpu().numpy() for wave in (x_BCT, y_BCT)]
    values = [one(x_T, y_T) for x_T, y_T in zip(*waves, strict=True)]
    result = torch.tensor(values, dtype=torch.float64)
    result[torch.tensor(quiet_B)] = math.nan
    return result.to(x_BCT.device)


METRICS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "mel_distance": _mel,
    "stft_distance": _stft,
    "si_sdr": si_sdr,
    "l1": l1,
}
"""Figures of clips (y, x, rate) → (B,), float64; stoi, estoi and, where it is installed, pesq are computed beside."""


def names() -> tuple[str, ...]:
    """All figures that are measured here."""
    return (*METRICS, "stoi", "estoi", *(["pesq"] if importlib.util.find_spec("pesq") else []))


def figures_of(y_BCT: Tensor, x_BCT: Tensor, rate: int) -> dict[str, Tensor]:
    """All figures of clips of one length, each (B,) float64; NaN where one isn't defined for a clip."""
    y, x = y_BCT.double(), x_BCT.double()
    values = {name: metric(y, x, rate) for name, metric in METRICS.items()}
    both_B2 = _of_speech(y, x, lambda x_T, y_T: speech.intelligibility(x_T, y_T, rate))
    values |= {"stoi": both_B2[:, 0], "estoi": both_B2[:, 1]}
    if "pesq" in names():
        values["pesq"] = _pesq(y, x, rate)
    return values


def definitions(rate: int) -> dict[str, dict[str, str]]:
    """What each figure is, in words and numbers, with a hash of that: figures of other hashes can't be compared."""
    every = "clipped and rounded to 16 bits, each clip without what follows its end, mean over clips"
    mels = MEL_WINDOWS["dac"]
    speech_like = "10 kHz, Octave's filter, mean of channels; clips with less than 30 frames of speech left out"
    texts = {
        "mel_distance": f"DAC: sum over windows of mean |log10|, hop a quarter, Hann, Slaney's filters of magnitudes; "
        f"windows {list(mels)}, bands {default_mels('dac', mels)}, floor {FLOOR}, {rate} Hz",
        "stft_distance": f"DAC: sum over windows of mean |log10 of squares| + mean |magnitudes|, hop a quarter, Hann; "
        f"windows {list(STFT_WINDOWS['dac'])}, floor {FLOOR}, {rate} Hz",
        "si_sdr": f"dB within {MOST:g}, without mean, channels together; silent clips left out",
        "l1": "mean absolute difference, full scale 1",
        "stoi": f"Taal et al. 2011, {speech_like}",
        "estoi": f"Jensen & Taal 2016, {speech_like}",
    }
    if "pesq" in names():
        band = "narrow band, 8 kHz" if rate == _NARROW else "wide band, 16 kHz"
        texts["pesq"] = f"pesq {version('pesq')}, {band}, mean of channels; clips without speech left out"
    return defined({name: f"{text}; {every}" for name, text in texts.items()})
