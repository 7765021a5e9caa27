"""Batches of pictures, decoded into uint8 memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import local

import torch

from data.pictures.config import TransformConfig
from data.pictures.decode import Workspace, decode_picture, picture_bytes
from data.pictures.geometry import draw
from data.pictures.transforms import apply
from data.reading.batches import Room
from data.shards.sample import caption, label, read_sample


@dataclass(frozen=True)
class PictureBatch:
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
    ) -> PictureBatch:
        """The batch of the rows that count."""
        pixels_BCHW, captions = buffer.chosen(rows)
        return PictureBatch(step, pixels_BCHW, torch.tensor(labels, dtype=torch.int64), keys, captions)
