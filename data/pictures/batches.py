"""Batches of pictures, decoded into uint8 memory.

Shapes: B batch (this rank's part), C channels, H W pixels.
"""

from dataclasses import dataclass, field

import torch

from data.pictures.config import TransformConfig
from data.pictures.decode import Workspace, decode_picture, picture_bytes
from data.pictures.geometry import draw
from data.pictures.transforms import apply
from data.shards.index import ShardIndex
from data.shards.sample import Sample


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
    """Fills uint8 batches. `seed` None: no augmentation."""

    batch = PictureBatch

    def __init__(self, index: ShardIndex, seed: int | None, *, transform: TransformConfig, max_pixels: int):
        self._transform, self._max_pixels = transform, max_pixels
        self._seed = seed if transform.flip or transform.random_crop else None
        self._pin = torch.cuda.is_available()
        self._workspace = Workspace()

    def allocate(self, rows: int) -> torch.Tensor:
        """pixels_BCHW, uint8; pinned where there is a GPU, from torch's pool of pinned memory."""
        shape = (rows, self._transform.channels, self._transform.size, self._transform.size)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin)

    def fill(self, sample: Sample, epoch: int, buffer: torch.Tensor, row: int) -> None:
        """Decode one sample into a row; DamagedSampleError if it can't be decoded."""
        random = None if self._seed is None else draw(self._seed, epoch, sample.key)
        encoded, memory = picture_bytes(sample), self._workspace
        picture_HWC = decode_picture(
            encoded, self._transform, max_pixels=self._max_pixels, random=random, workspace=memory
        )
        apply(picture_HWC, self._transform, random, buffer[row].numpy().transpose(1, 2, 0))
