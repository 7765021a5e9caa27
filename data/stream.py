"""From shards to batches: order, byte-offset reads and decoding threads. The loader keeps no state but the step.

Shapes: B batch (this rank's part), C channels, H W pixels, h w latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from data.config import CodeDataConfig, DataConfig
from data.index import ShardIndex
from data.transforms import TransformConfig

__all__ = [
    "Batch",
    "CodeBatch",
    "CodeDataConfig",
    "CodeStream",
    "DataConfig",
    "PictureStream",
    "every_code",
    "every_sample",
]


@dataclass(frozen=True)
class Batch:
    """Pictures of one step."""

    step: int
    """Number of the global batch (of `every_sample`: of this rank's batch)."""
    pixels_BCHW: torch.Tensor
    """uint8; rows of pixels lie with their channels together (channels_last)."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""


@dataclass(frozen=True)
class CodeBatch:
    """Code grids of one step."""

    step: int
    """Number of the global batch (of `every_code`: of this rank's batch)."""
    idx_Bhw: torch.Tensor
    """int64 codes."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""


class PictureStream:
    """Endless training pictures of one rank; a context manager (its threads end with it).

    Raises UserError, before the first batch, for a missing shard or ranks that don't divide the lanes; while reading,
    for more damaged samples than `config.max_damaged` allows.
    """

    index: ShardIndex
    damaged: dict[str, int]

    def __init__(self, config: DataConfig, *, seed: int, rank: int = 0, world_size: int = 1):
        raise NotImplementedError

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """This rank's part of the global batches `start`, `start` + 1, … without end."""
        raise NotImplementedError

    def close(self) -> None:
        """End the threads."""

    def __enter__(self) -> PictureStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class CodeStream:
    """Endless training codes of one rank, as PictureStream gives pictures. `index.meta` tells whose codes they are."""

    index: ShardIndex
    damaged: dict[str, int]

    def __init__(self, config: CodeDataConfig, *, seed: int, rank: int = 0, world_size: int = 1):
        raise NotImplementedError

    def batches(self, start: int = 0) -> Iterator[CodeBatch]:
        """This rank's part of the global batches `start`, `start` + 1, … without end."""
        raise NotImplementedError


def every_sample(
    index_path: str,
    transform: TransformConfig,
    *,
    batch_size: int,
    threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Each picture exactly once, in index order: rank q's contiguous slice; the last batch may be smaller.

    Nothing random is done to them. `limit` takes that many, evenly spaced over the index.
    """
    raise NotImplementedError


def every_code(
    index_path: str,
    *,
    batch_size: int,
    threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
) -> Iterator[CodeBatch]:
    """Each code grid exactly once, as `every_sample` gives pictures."""
    raise NotImplementedError
