"""Averaged weights of a model that the ranks share: each rank averages what it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from launch.checkpoints.pieces import Piece, PieceState
from launch.run.ema import Ema
from launch.strategies.base import Strategy


class SharedEma(Ema):
    """Averages of the weights that each rank holds. To use them, `applied` puts them in the weights' place."""

    def __init__(self, strategy: Strategy, decay: float, pieces: Callable[[], list[Piece]] | None = None):
        """`pieces` gives what is averaged; without it, the strategy's weights."""
        self._strategy = strategy
        self._averaged = pieces or strategy.weights
        self._means = [piece.values.clone() for piece in self._averaged()]
        super().__init__(decay, lambda: self._means, lambda: [piece.values for piece in self._averaged()])

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
        return PieceState(self._pieces, everywhere=self._strategy.everywhere, plain=lambda state: state)

    def _pieces(self) -> list[Piece]:
        return [piece.of(mean) for piece, mean in zip(self._averaged(), self._means, strict=True)]

    @torch.no_grad()
    def _exchange(self) -> None:
        for piece, mean in zip(self._averaged(), self._means, strict=True):
            own: Tensor = piece.values.clone()
            piece.values.copy_(mean)
            mean.copy_(own)
        self._strategy.refresh()
