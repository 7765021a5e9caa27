"""Sounds: their loss terms, discriminators and figures, and how they are shown."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data.sounds.batches import SoundBatch, sounding, to_float
from data.sounds.config import SoundConfig
from launch.run.runtime import Run
from stage1_tokenizer.config.losses import OF_SOUNDS, LossConfig
from stage1_tokenizer.losses.sound import MelTerm, StftTerm, WaveformTerm
from stage1_tokenizer.losses.term import Term, further_terms
from stage1_tokenizer.measuring.features import FeatureName
from stage1_tokenizer.measuring.sound_scores import measure_sounds
from stage1_tokenizer.measuring.sounds_shown import save_sounds
from stage1_tokenizer.media.medium import Medium
from stage1_tokenizer.tokenizer.model import Tokenizer

SHOWN = 8
"""Held-out clips shown at each evaluation."""

TERMS: dict[str, Callable[..., Term]] = {"waveform": WaveformTerm, "stft": StftTerm}
"""Terms that loss.terms may name, beside mel, which takes the sample rate first; each takes its settings by name."""


def input_of(batch: SoundBatch, device: torch.device) -> Tensor:
    """x_BCT from samples of 16 bits."""
    return to_float(batch.samples_BCT.to(device, non_blocking=True))


def beside(batch: SoundBatch, device: torch.device) -> dict[str, Tensor]:
    """Where clips end: valid_B1T, 1 before and 0 after."""
    lengths_B = batch.lengths_B.to(device, non_blocking=True)
    return {"valid": sounding(lengths_B, batch.samples_BCT.shape[-1]).float()}


def terms(config: LossConfig, transform: SoundConfig) -> list[Term]:
    """Those of loss.terms. Feature matching is the discriminators'."""
    return further_terms(config.terms, {"mel": partial(MelTerm, transform.sample_rate), **TERMS})


def measure(
    tokenizer: Tokenizer, batches: Iterable[SoundBatch], terms: list[Term], features: FeatureName, run: Run
) -> dict[str, float]:
    """The figures of `measure_sounds`, with all codebooks."""
    return measure_sounds(tokenizer, batches, device=run.device, total=run.sum)


def show(path: Path, tokenizer: Tokenizer, index: str) -> None:
    """Write a folder of FLAC files and, beside it, a PNG of their spectrograms: originals and reconstructions."""
    save_sounds(path, path.with_suffix(".png"), tokenizer, index, SHOWN)


SOUNDS = Medium("sounds", ("patch", *OF_SOUNDS), input_of, terms, measure, show, shown="sounds", beside=beside)
"""The record; `patch` works on samples along one axis."""
