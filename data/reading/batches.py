"""What a batch is, and how samples' bytes become its rows.

Shapes: B batch (this rank's part), C channels, H W pixels, h w latent grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import local
from typing import Generic, TypeVar

import numpy as np
import torch

from data.pictures.decode import (
    DamagedSampleError,
    Workspace,
    caption,
    decode_codes,
    decode_picture,
    label,
    picture_bytes,
    read_sample,
)
from data.pictures.transforms import TransformConfig, apply, draw
from data.shards.index import ShardIndex
from launch.command.cli import UserError

ArrayT = TypeVar("ArrayT", torch.Tensor, np.ndarray)


@dataclass(frozen=True)
class Batch:
    """Pictures of one step."""

    step: int
    """Number of the global batch (of `every_sample`: of this rank's batch)."""
    pixels_BCHW: torch.Tensor
    """uint8, contiguous; pinned where there is a GPU."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """Their texts, "" where a sample has none; of pictures that didn't come from shards an empty list."""


@dataclass(frozen=True)
class CodeBatch:
    """Codes of one step."""

    step: int
    """Number of the global batch (of `every_code`: of this rank's batch)."""
    idx_Bhw: torch.Tensor
    """int64 codes; (B, G, h, w) of several codebooks, (B, N) of several scales."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """Their texts, "" where a sample has none."""


@dataclass(frozen=True)
class Room(Generic[ArrayT]):
    """A batch that is being filled."""

    rows: ArrayT
    captions: list[str]

    def chosen(self, rows: list[int] | None) -> tuple[ArrayT, list[str]]:
        """What is in the rows that count; None: in all."""
        if rows is None:
            return self.rows, self.captions
        return self.rows[rows], [self.captions[row] for row in rows]


class PictureDecoder:
    """Fills uint8 batches. `seed` None: nothing random is done to the pictures."""

    def __init__(self, transform: TransformConfig, classes: int, *, max_pixels: int, seed: int | None):
        self._transform, self._classes, self._max_pixels = transform, classes, max_pixels
        self._seed = seed if transform.flip or transform.random_crop else None
        self._pin = torch.cuda.is_available()
        self._of_thread = local()

    def allocate(self, rows: int) -> Room[torch.Tensor]:
        """pixels_BCHW, uint8; pinned where there is a GPU, from torch's pool of pinned memory."""
        shape = (rows, self._transform.channels, self._transform.size, self._transform.size)
        return Room(torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin), [""] * rows)

    def fill(self, raw: bytes | memoryview, epoch: int, buffer: Room[torch.Tensor], row: int) -> tuple[str, int]:
        """Decode one sample into a row; its key and label."""
        sample = read_sample(raw)
        number = label(sample, self._classes)
        random = None if self._seed is None else draw(self._seed, epoch, sample.key)
        picture_HWC = decode_picture(
            picture_bytes(sample),
            self._transform,
            max_pixels=self._max_pixels,
            random=random,
            workspace=self._workspace(),
        )
        apply(picture_HWC, self._transform, random, buffer.rows[row].numpy().transpose(1, 2, 0))
        buffer.captions[row] = caption(sample)
        return sample.key, number

    def _workspace(self) -> Workspace:
        if not hasattr(self._of_thread, "workspace"):
            self._of_thread.workspace = Workspace()
        return self._of_thread.workspace

    def finish(
        self, step: int, buffer: Room[torch.Tensor], rows: list[int] | None, labels: list[int], keys: list[str]
    ) -> Batch:
        """The batch of the rows that count."""
        pixels_BCHW, captions = buffer.chosen(rows)
        return Batch(step, pixels_BCHW, torch.tensor(labels, dtype=torch.int64), keys, captions)


class CodeDecoder:
    """Fills code batches of the shape (`shape`, else `grid`) and codebook that a code index names, else UserError."""

    def __init__(self, index: ShardIndex):
        try:
            self._shape = tuple(int(side) for side in index.meta.get("shape", index.meta["grid"]))
            self._codebook_size = int(index.meta["codebook_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{index.path or index.base} names no grid and codebook_size: "
                "make it with `python -m stage2_prior.encode`"
            ) from error
        self._classes = len(index.classes)

    def allocate(self, rows: int) -> Room[np.ndarray]:
        """idx_Bhw, int64; of codes of several levels or scales in their own form."""
        return Room(np.empty((rows, *self._shape), dtype=np.int64), [""] * rows)

    def fill(self, raw: bytes | memoryview, epoch: int, buffer: Room[np.ndarray], row: int) -> tuple[str, int]:
        """Read one sample's codes into a row; its key and label."""
        sample = read_sample(raw)
        number = label(sample, self._classes)
        codes = decode_codes(sample)
        if codes.shape != self._shape or codes.dtype.kind not in "iu":
            raise DamagedSampleError(f"its codes are {codes.dtype} {codes.shape}, the index says {self._shape}")
        if codes.size and (int(codes.max()) >= self._codebook_size or int(codes.min()) < 0):
            raise DamagedSampleError(f"it has codes outside 0..{self._codebook_size - 1}")
        buffer.rows[row] = codes
        buffer.captions[row] = caption(sample)
        return sample.key, number

    def finish(
        self, step: int, buffer: Room[np.ndarray], rows: list[int] | None, labels: list[int], keys: list[str]
    ) -> CodeBatch:
        """The batch of the rows that count."""
        idx_Bhw, captions = buffer.chosen(rows)
        return CodeBatch(step, torch.from_numpy(idx_Bhw), torch.tensor(labels, dtype=torch.int64), keys, captions)
