"""The prior's optimizer, and its averaged weights."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from launch.checkpoints.pieces import Piece, PieceState
from launch.config import OptimizerConfig
from launch.run.ema import Ema
from launch.strategies.base import Strategy


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over a model's parameters; matrices decay, embeddings and norms don't."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    free = [weight for weight in model.parameters() if weight.ndim < 2 or id(weight) in embeddings]
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2 and id(weight) not in embeddings]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


class PriorEma(Ema):
    """Averaged weights of a prior: each rank averages the weights that it holds.

    To use the averages, `applied` puts them in the weights' place.
    """

    def __init__(self, strategy: Strategy, decay: float):
        self._strategy = strategy
        self._means = [piece.values.clone() for piece in strategy.weights()]
        super().__init__(decay, lambda: self._means, lambda: [piece.values for piece in strategy.weights()])

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
