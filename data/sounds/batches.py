"""Batches of clips, and their samples on the way to the networks and back.

Shapes: B batch (this rank's part), C channels, T samples.
"""

from dataclasses import dataclass, field

import torch

from data.sounds.config import FULL_SCALE


@dataclass(frozen=True)
class SoundBatch:
    """Clips of one step."""

    step: int
    """Number of the global batch (of `every_sample`: of this rank's batch)."""
    samples_BCT: torch.Tensor
    """int16, contiguous; pinned where there is a GPU. Zeros after a clip's end."""
    lengths_B: torch.Tensor
    """int64, 1 to T: the samples of each clip that are sound."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """Their texts, "" where a sample has none; of sounds that didn't come from shards an empty list."""


def to_float(samples_BCT: torch.Tensor) -> torch.Tensor:
    """int16 samples → x_BCT, contiguous float32 in [-1, 1), on the device they are on."""
    return samples_BCT.to(torch.float32, memory_format=torch.contiguous_format) / FULL_SCALE


def to_int16(x_BCT: torch.Tensor) -> torch.Tensor:
    """x_BCT in [-1, 1] → the nearest int16 samples; values outside are clamped. Inverse of `to_float`."""
    return (x_BCT.float() * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)


def sounding(lengths_B: torch.Tensor, length: int) -> torch.Tensor:
    """mask_B1T, bool: which of `length` samples are before each clip's end; on the device of `lengths_B`."""
    return (torch.arange(length, device=lengths_B.device) < lengths_B[:, None])[:, None]
