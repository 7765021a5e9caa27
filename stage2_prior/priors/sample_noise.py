"""Random numbers of a training step that belong to the samples, whatever ranks and micro-batches they are spread over.

Which classes are dropped, which codes are replaced or masked, and in which order they come, is drawn for the whole
global batch from (seed, step) on every rank, and each rank takes its samples' rows: a run that resumes on another
number of ranks draws the same. (Dropout inside the transformer is drawn by each rank.)
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from launch.ranks.transfer import to_device

SALT = 0x6368616E
"""Keeps these draws apart from launch.run.seeding.seed_step's."""


class SampleNoise:
    """Uniform numbers for the samples of a batch: from torch's generator, or inside `of_batch` from its own."""

    def __init__(self) -> None:
        self._generator: torch.Generator | None = None
        self._batch, self._rows = 0, slice(0, 0)

    @contextlib.contextmanager
    def of_batch(self, seed: int, step: int, batch: int, rows: slice) -> Iterator[None]:
        """Inside, the samples are `rows` of the global batch; the same seed and step draw the same numbers."""
        word = np.random.SeedSequence([seed, step, SALT]).generate_state(1, np.uint64)
        self._generator = torch.Generator().manual_seed(int(word[0]))
        self._batch, self._rows = batch, rows
        try:
            yield
        finally:
            self._generator = None

    def for_all(self, samples: int, *shape: int, device: torch.device) -> Tensor:
        """Numbers in [0, 1) for every sample of the global batch, float32; `own` takes the rows of these `samples`."""
        if self._generator is None:
            return torch.rand(samples, *shape, device=device)
        return to_device(self._drawn(*shape), device)

    def own(self, all_X: Tensor) -> Tensor:
        """The rows of the samples at hand."""
        return all_X if self._generator is None else all_X[self._rows]

    def uniform(self, samples: int, *shape: int, device: torch.device) -> Tensor:
        """Numbers in [0, 1) for these samples."""
        if self._generator is None:
            return torch.rand(samples, *shape, device=device)
        return to_device(self.own(self._drawn(*shape)), device)

    def _drawn(self, *shape: int) -> Tensor:
        return torch.rand(self._batch, *shape, generator=self._generator)
