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
    shape: tuple[int, ...]
    """Of a sample's codes."""
    batch: int
    """B."""
    seed: int

    def draw(self, step: int, done: float, rows: slice) -> tuple[Tensor, Tensor] | None:
        """rows_X and rank_X… (`Perturbed`) of these rows of the global batch; None: none is perturbed.

        `done` is the share of the training steps that are done.
        """
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, step, SALT])))
        chosen = np.flatnonzero(random.random(self.batch) < self.config.samples)
        uniform_X2N = random.random((len(chosen), 2, math.prod(self.shape)))
        mine = (chosen >= rows.start) & (chosen < rows.stop)
        if not mine.any():
            return None
        strength = self.config.strength(done)
        nearest = max(1, round(self.config.nearest * strength))
        rank_XN = drawn_ranks(uniform_X2N[mine], self.config.share * strength, nearest)
        rank_X = torch.from_numpy(rank_XN).unflatten(1, self.shape)
        return torch.from_numpy(chosen[mine] - rows.start), rank_X


class Inputs:
    """Turns batches of a run into what `train_step` takes."""

    def __init__(self, config: TokenizerTrainConfig, tokenizer: Tokenizer, medium: Medium, run: Run):
        self._medium, self._run, self._steps = medium, run, config.steps
        self._perturbing: Perturbing | None = None
        perturb = config.model.quantizer.perturb
        if perturb.samples and config.data.codes is None and "quantizer" not in config.freeze:
            shape = tokenizer.codes_shape(config.data.transform.sizes)
            self._perturbing = Perturbing(perturb, shape, config.data.batch_size, config.run.seed)

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
            if (chosen := self._perturbing.draw(step, step / self._steps, rows)) is not None:
                beside["perturbed"] = on_device(chosen, run.device)
        return x_BCHW, beside


def on_device(chosen: Sequence[Tensor], device: torch.device) -> Perturbed:
    """What is perturbed, on a device."""
    rows_X, rank_X = (to_device(tensor, device) for tensor in chosen)
    return rows_X, rank_X
