"""Sounds in stage two: written as FLAC with a spectrogram beside it.

Shapes: B samples, C channels, T samples of a sound.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.shards import signature
from data.sounds.batches import to_float, to_int16
from data.sounds.clips import clip_of
from data.sounds.config import FULL_SCALE, SoundConfig
from data.sounds.convert import encode
from data.sounds.files import SoundFile
from data.sounds.inspection import spectrogram
from launch.files.atomic import write_file
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.kinds import SampleKind

WIDTH, HEIGHT = 256, 128
"""Pixels of a spectrogram."""


@dataclass(frozen=True)
class Sound:
    """A sound to be written."""

    x_CT: np.ndarray
    """int16."""
    rate: int
    """Samples a second."""

    def save(self, path: Path) -> None:
        """Write the spectrogram, NAME.png, and then NAME.flac."""
        self.picture().save(path.with_suffix(".png"))
        write_file(path, encode(self.x_CT, self.rate, "flac"))

    def picture(self) -> Image.Image:
        """Its spectrogram."""
        return spectrogram(self.x_CT.mean(axis=0) / FULL_SCALE, WIDTH, HEIGHT)


def decoded(tokenizer: Tokenizer, x_BCT: Tensor) -> list[Sound]:
    """Sounds of floats in [-1, 1], at the rate of the tokenizer's transform."""
    transform: Any = tokenizer.transform
    assert isinstance(transform, SoundConfig)
    return [Sound(x_CT, transform.sample_rate) for x_CT in to_int16(x_BCT).cpu().numpy()]


def input_of(batch: Any, device: torch.device) -> Tensor:
    """x_BCT from int16."""
    return to_float(batch.samples_BCT.to(device))


def read(contents: bytes, transform: Any) -> tuple[Tensor, tuple[int, ...]]:
    """The clip of a sound file, x_BCT, and the file's number of samples."""
    clip_CT = torch.from_numpy(clip_of(contents, transform))
    with SoundFile(contents) as file:
        frames = file.frames
    return to_float(F.pad(clip_CT, (0, transform.length - clip_CT.shape[1])))[None], (frames,)


SOUNDS = SampleKind(
    name="sounds",
    suffix=".flac",
    input=input_of,
    decoded=decoded,
    picture=Sound.picture,
    extensions=signature.SOUNDS,
    read=read,
    empty=0.0,
)
