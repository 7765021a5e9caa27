"""A classifier of sounds, on the loudness of mel bands.

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

SECONDS, BANDS = 0.064, 40
"""Length of a window, and mel bands."""
LOUDNESS = 0.3
"""Power of energy that loudness grows with (Stevens 1955). A logarithm would hear what a codec leaves in pauses."""
HEARD, QUIET = 5e-5, 1e-6
"""Shares of the loudest frame's energy: frames of less than the first aren't heard, bands have at least the second."""


def features(samples_BCT: np.ndarray, rate: int) -> np.ndarray:
    """What the classifier sees of int16 sounds, float32 (B, F): mean and deviation of the loudness of each mel band.

    Silence before, in and after a sound has no part in them, nor has its level.
    """
    found = [_of_some(part_BCT, rate) for part_BCT in torch.from_numpy(samples_BCT).split(256)]
    return torch.cat(found).numpy()


def _of_some(samples_BCT: Tensor, rate: int) -> Tensor:
    window = 2 ** round(math.log2(SECONDS * rate))
    mono_B1T = to_float(samples_BCT).mean(1, keepdim=True)
    power_BFN = spectrum(mono_B1T, window, window // 4)[:, 0].abs().square()
    energy_BMN = mel_filters(rate, window, BANDS).to(power_BFN.dtype) @ power_BFN
    frame_B1N = energy_BMN.sum(1, keepdim=True).clamp_min(1e-10)
    loudest_B11 = frame_B1N.amax(2, keepdim=True)
    loudness_BMN = (energy_BMN / loudest_B11).clamp_min(QUIET) ** LOUDNESS
    return torch.cat(_moments(loudness_BMN, frame_B1N / loudest_B11 >= HEARD), dim=1)


def _moments(x_BMN: Tensor, heard_B1N: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the frames that are heard."""
    weight_B1N = heard_B1N / heard_B1N.sum(2, keepdim=True).clamp_min(1)
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
    what=f"scikit-learn SVC, Gaussian kernel, on means and deviations of the loudness of {BANDS} mel bands",
    values=lambda batch: batch.samples_BCT.numpy(),
    read=_read,
    fitted=fitted_classifier,
)
