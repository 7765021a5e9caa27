"""Batches of clips. Shapes: B batch (this rank's part), C channels, T frames, H W pixels.

`to_float` and `to_uint8` of `data.pictures.transforms` take clips as they take pictures.
"""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class VideoBatch:
    """Clips of one step."""

    step: int
    """Number of the global batch (of `every_sample`: of this rank's batch)."""
    pixels_BCTHW: torch.Tensor
    """uint8, contiguous; pinned where there is a GPU. T is `transform.frames`; 1 in a batch of pictures, of a mixture
    of videos and pictures."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """Their texts, "" where a sample has none; of clips that didn't come from shards an empty list."""
