"""Fills batches of clips. Shapes: B batch (this rank's part), C channels, T samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.shards.draws import draws
from data.shards.index import ShardIndex
from data.shards.sample import Sample
from data.sounds.batches import SoundBatch
from data.sounds.clips import clip_of
from data.sounds.config import SoundConfig
from data.sounds.files import sound_member, soundfile, soxr


@dataclass(frozen=True)
class Clips:
    """Memory for a batch."""

    samples_BCT: torch.Tensor
    lengths_B: torch.Tensor

    def __getitem__(self, rows: Sequence[int]) -> "Clips":
        """Some of its rows."""
        return Clips(self.samples_BCT[rows], self.lengths_B[rows])


class SoundDecoder:
    """Fills int16 batches. `seed` None: nothing is drawn at random. `max_pixels` is for pictures."""

    def __init__(self, index: ShardIndex, seed: int | None, *, transform: SoundConfig, max_pixels: int = 0):
        self._transform, self._seed = transform, seed
        _ = soundfile.SoundFile, soxr.resample  # missing ones are told now, not by a thread
        self._pin = torch.cuda.is_available()

    def allocate(self, rows: int) -> Clips:
        """samples_BCT, int16 and pinned where there is a GPU, and lengths_B, int64."""
        shape = (rows, self._transform.channels, self._transform.length)
        return Clips(torch.empty(shape, dtype=torch.int16, pin_memory=self._pin), torch.empty(rows, dtype=torch.int64))

    def fill(self, sample: Sample, epoch: int, buffer: Clips, row: int) -> None:
        """Decode one sample into a row; DamagedSampleError if it can't be decoded or is silent and to be dropped."""
        numbers = None if self._seed is None else draws(self._seed, epoch, sample.key)
        clip_CT = clip_of(sample.files[sound_member(sample)], self._transform, numbers)
        length = clip_CT.shape[1]
        row_CT = buffer.samples_BCT[row].numpy()  # by NumPy: a thread may not write to tensors of inference mode
        row_CT[:, :length], row_CT[:, length:] = clip_CT, 0
        buffer.lengths_B.numpy()[row] = length

    @staticmethod
    def batch(step: int, buffer: Clips, label_B: torch.Tensor, keys: list[str], captions: list[str]) -> SoundBatch:
        """The batch of filled rows."""
        return SoundBatch(step, buffer.samples_BCT, buffer.lengths_B, label_B, keys, captions)
