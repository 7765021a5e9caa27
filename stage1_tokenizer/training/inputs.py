"""What a step takes of a batch: the samples, and beside them where they end, their codes, and which are perturbed.

Legend: B samples of the global batch, N codes of one, X perturbed samples of this rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.reading.paired import Paired
from launch.ranks.transfer import to_device
from launch.run.runtime import Run
from stage1_tokenizer.config.perturb import PerturbConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.media.medium import Medium
from stage1_tokenizer.quantizers.base import Perturbed
from stage1_tokenizer.quantizers.nearby import drawn_ranks
from stage1_tokenizer.tokenizer.model import Tokenizer

SALT = 0x70657274
"""Keeps these draws apart from those of launch.run.seeding.seed_step and of the data."""


@dataclass(frozen=True)
class Perturbing:
    """Draws which samples of a step are perturbed and how: a function of the seed, the step and the place in the global
    batch, so that any number of ranks, also after a resumption, draws the same."""

    config: PerturbConfig
    batch: int
    """B."""
    seed: int

    def draw(self, step: int, done: float, rows: slice, shape: Sequence[int]) -> Perturbed | None:
        """rows_X and rank_X… of these rows of the global batch, on the CPU; None: none is perturbed.

        `done` is the share of the training steps that are done, `shape` that of a sample's codes.
        """
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, SALT])))
        chosen = np.flatnonzero(random.random(self.batch) < self.config.samples)
        uniform_X2N = random.random((len(chosen), 2, math.prod(shape)))
        mine = (chosen >= rows.start) & (chosen < rows.stop)
        if not mine.any():
            return None
        strength = self.config.strength(done)
        nearest = max(1, round(self.config.nearest * strength))
        rank_XN = drawn_ranks(uniform_X2N[mine], self.config.share * strength, nearest)
        rank_X = torch.from_numpy(rank_XN).unflatten(1, tuple(shape))
        return torch.from_numpy(chosen[mine] - rows.start), rank_X


class Inputs:
    """Turns batches of a run into what `train_step` takes."""

    def __init__(self, config: TokenizerTrainConfig, tokenizer: Tokenizer, medium: Medium, run: Run):
        self._tokenizer, self._medium, self._run, self._steps = tokenizer, medium, run, config.steps
        self._perturbing: Perturbing | None = None
        perturb = config.model.quantizer.perturb
        if perturb.samples and config.data.codes is None and "quantizer" not in config.freeze:
            self._perturbing = Perturbing(perturb, config.data.batch_size, config.run.seed)

    def of(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Any]]:
        """The samples x_BC…, and by name what is beside them, on the run's device."""
        run = self._run
        beside: dict[str, Any] = {}
        if isinstance(batch, Paired):
            batch, beside["codes_Bhw"] = batch.samples, to_device(batch.idx_Bhw, run.device)
        x_BCHW = self._medium.input(batch, run.device)
        beside |= self._medium.beside(batch, run.device)
        if self._perturbing is not None:
            own = len(x_BCHW)
            rows = slice(run.rank * own, (run.rank + 1) * own)
            shape = self._tokenizer.codes_shape(x_BCHW.shape[2:])
            if (chosen := self._perturbing.draw(step, step / self._steps, rows, shape)) is not None:
                beside["perturbed"] = tuple(to_device(tensor, run.device) for tensor in chosen)
        return x_BCHW, beside
