"""Windows of bytes of texts, for tokenizers of bytes.

Shapes: B batch (this rank's part), T bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from data.shards.draws import draws
from data.shards.index import ShardIndex
from data.shards.sample import DamagedSampleError, Sample
from data.texts.batches import TextDecoder, text_of
from data.texts.config import BYTES, TextConfig


@dataclass(frozen=True)
class Windows:
    """Memory for a batch."""

    byte_BT: torch.Tensor
    """uint8; zeros behind a text's end."""
    lengths_B: torch.Tensor

    def __getitem__(self, rows: Sequence[int]) -> "Windows":
        """Some of its rows."""
        return Windows(self.byte_BT[rows], self.lengths_B[rows])


@dataclass(frozen=True)
class ByteBatch:
    """Windows of one step."""

    step: int
    """Number of the global batch."""
    byte_BT: torch.Tensor
    """uint8; zeros behind a text's end."""
    lengths_B: torch.Tensor
    """int64, 1 to T: the bytes of each window that are text."""
    label_B: torch.Tensor
    """int64, -1 where a sample has no label."""
    keys: list[str]
    """The samples' names in their shards."""
    captions: list[str] = field(default_factory=list)
    """The texts on one line each."""


class ByteDecoder:
    """Fills batches of windows. `seed` None: nothing is drawn at random. `max_pixels` is for pictures."""

    def __init__(self, index: ShardIndex, seed: int | None, *, transform: TextConfig, max_pixels: int = 0):
        self._transform, self._seed = transform, seed

    def allocate(self, rows: int) -> Windows:
        """byte_BT and lengths_B."""
        length = self._transform.length
        return Windows(torch.empty((rows, length), dtype=torch.uint8), torch.empty(rows, dtype=torch.int64))

    def fill(self, sample: Sample, epoch: int, buffer: Windows, row: int) -> None:
        """Read one sample's window into a row; DamagedSampleError without a text."""
        contents, length = text_of(sample).encode(), self._transform.length
        if not contents:
            raise DamagedSampleError("an empty text")
        room = max(0, len(contents) - length)
        drawn = self._transform.random_crop and self._seed is not None and room
        first = int((room + 1) * next(draws(self._seed or 0, epoch, sample.key))) if drawn else 0
        window_T = np.frombuffer(contents[first : first + length], dtype=np.uint8)
        row_T = buffer.byte_BT[row].numpy()
        row_T[: len(window_T)], row_T[len(window_T) :] = window_T, 0
        buffer.lengths_B.numpy()[row] = len(window_T)

    @staticmethod
    def batch(step: int, buffer: Windows, label_B: torch.Tensor, keys: list[str], captions: list[str]) -> ByteBatch:
        """The batch of filled rows."""
        return ByteBatch(step, buffer.byte_BT, buffer.lengths_B, label_B, keys, captions)


def decoder(index: ShardIndex, seed: int | None = None, **decoding: Any) -> ByteDecoder | TextDecoder:
    """The decoder of windows where there is a transform, else that of whole texts."""
    return ByteDecoder(index, seed, **decoding) if decoding else TextDecoder(index, seed)


def one_hot(byte_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """x_BCT float32 with C = 256: 1 in the channel of each byte, nothing behind a window's end."""
    x_BTC = F.one_hot(byte_BT.long(), BYTES).float()
    inside_BT = torch.arange(byte_BT.shape[1], device=byte_BT.device) < lengths_B[:, None]
    return (x_BTC * inside_BT[..., None]).transpose(1, 2).contiguous()
