"""The parts of an optimizer step that are functions or small states of their own: rate, parameter groups, averages."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from launch.checkpoints.pieces import Piece, PieceState
from launch.strategies.base import Strategy

if TYPE_CHECKING:
    from stage2_prior.config.training import PriorOptimizerConfig


def learning_rate(config: PriorOptimizerConfig, step: int, steps: int) -> float:
    """The rate of a step in [0, steps): linear warm-up, then a cosine down to final_share. A function, not a state."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps))
    share = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def build_optimizer(model: nn.Module, config: PriorOptimizerConfig) -> torch.optim.AdamW:
    """AdamW over a model's parameters; matrices decay, embeddings and norms don't."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    free = [weight for weight in model.parameters() if weight.ndim < 2 or id(weight) in embeddings]
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2 and id(weight) not in embeddings]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


class Ema:
    """Averaged weights: mean ← d·mean + (1 - d)·weights, with d = min(decay, (1 + step)/(10 + step)).

    Each rank averages what it holds of the weights; to use the averages, `applied` puts them in the weights' place.
    """

    def __init__(self, strategy: Strategy, decay: float):
        self.decay = decay
        self._strategy = strategy
        self._means = [piece.values.clone() for piece in strategy.weights()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, [piece.values for piece in self._strategy.weights()], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it; all ranks together."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @property
    def state(self) -> PieceState:
        """The averages, for a checkpoint."""
        return PieceState(self._pieces, everywhere=self._strategy.everywhere)

    def _pieces(self) -> list[Piece]:
        return [piece.of(mean) for piece, mean in zip(self._strategy.weights(), self._means, strict=True)]

    @torch.no_grad()
    def _exchange(self) -> None:
        for piece, mean in zip(self._strategy.weights(), self._means, strict=True):
            own = piece.values.clone()
            piece.values.copy_(mean)
            mean.copy_(own)
        self._strategy.refresh()
