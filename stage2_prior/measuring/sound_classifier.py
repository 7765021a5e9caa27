"""A classifier of sounds, on cepstra of mel spectra.

Shapes: B sounds, C channels, T samples, N frames, M mel bands, F features.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.sounds.batches import to_float, to_int16
from data.sounds.files import SoundFile, mixed
from stage1_tokenizer.layers.spectrum import mel_filters, spectrum
from stage2_prior.measuring.classifier import Classified, Classifier

SECONDS, BANDS, CEPSTRA = 0.032, 40, 20
"""Length of a window, mel bands, and coefficients of their cosine transform."""
RANGE = 10.0
"""Frames whose energy is within this of the loudest, as a natural logarithm, are heard: 43 dB."""


def features(samples_BCT: np.ndarray, rate: int) -> np.ndarray:
    """What the classifier sees of int16 sounds, float32 (B, F): means and deviations of cepstra and of their changes.

    Silence before, in and after a sound has no part in them, nor has its loudness.
    """
    found = [_of_some(part_BCT, rate) for part_BCT in torch.from_numpy(samples_BCT).split(256)]
    return torch.cat(found).numpy()


def _of_some(samples_BCT: Tensor, rate: int) -> Tensor:
    window = 2 ** round(math.log2(SECONDS * rate))
    mono_B1T = to_float(samples_BCT).mean(1, keepdim=True)
    power_BFN = spectrum(mono_B1T, window, window // 4)[:, 0].abs().square()
    filters_MF = mel_filters(rate, window, BANDS).to(power_BFN.dtype)
    log_BMN = (filters_MF @ power_BFN).clamp_min(1e-10).log()
    cepstra_BMN = _cosines(log_BMN.dtype) @ log_BMN
    energy_BN = power_BFN.sum(1).clamp_min(1e-10).log()
    heard_BN = energy_BN >= energy_BN.amax(1, keepdim=True) - RANGE
    changes_BMN = torch.nn.functional.pad(cepstra_BMN.diff(dim=2, n=1), (1, 0))
    return torch.cat([*_moments(cepstra_BMN[:, 1:], heard_BN), *_moments(changes_BMN[:, 1:], heard_BN)], dim=1)


def _cosines(dtype: torch.dtype) -> Tensor:
    """The first rows of the orthogonal cosine transform of M bands."""
    angle_CM = torch.arange(CEPSTRA)[:, None] * (torch.arange(BANDS) + 0.5) * (math.pi / BANDS)
    return (angle_CM.cos() * math.sqrt(2 / BANDS)).to(dtype)


def _moments(x_BMN: Tensor, heard_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the frames that are heard."""
    weight_B1N = (heard_BN / heard_BN.sum(1, keepdim=True).clamp_min(1))[:, None]
    mean_BM1 = (x_BMN * weight_B1N).sum(2, keepdim=True)
    variance_BM = ((x_BMN - mean_BM1).square() * weight_B1N).sum(2)
    return mean_BM1[..., 0], variance_BM.sqrt()


def fitted_classifier(label_B: np.ndarray, samples_BCT: np.ndarray, transform: Any) -> Classifier:
    """A support-vector machine with a Gaussian kernel on the features, each with mean 0 and deviation 1."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    rate = transform.sample_rate
    machine = make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale", cache_size=500))
    machine.fit(features(samples_BCT, rate), label_B)
    return lambda samples_BCT: np.asarray(machine.predict(features(samples_BCT, rate)))


def _read(file: Path, transform: Any) -> np.ndarray:
    with SoundFile(file.read_bytes()) as sound:
        x_CT = mixed(sound.read(0, sound.frames), transform.channels)
    return to_int16(torch.from_numpy(x_CT)).numpy()


SOUNDS = Classified(
    what=f"scikit-learn SVC, Gaussian kernel, on means and deviations of {CEPSTRA - 1} cepstra of {BANDS} mel bands",
    values=lambda batch: batch.samples_BCT.numpy(),
    read=_read,
    fitted=fitted_classifier,
)
