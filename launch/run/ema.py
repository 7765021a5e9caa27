"""Averaged weights: what is evaluated and released."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Ema:
    """Averages that follow the weights: mean ← d·mean + (1 - d)·weights, with d = min(decay, (1 + step)/(10 + step)).

    So the first weights are soon forgotten. Tensors that aren't floating-point are copied. decay 0: always the weights
    themselves.
    """

    def __init__(self, decay: float, means: Callable[[], list[Tensor]], weights: Callable[[], list[Tensor]]):
        """`means` and `weights` give the tensors that there are now, in the same order."""
        self.decay = decay
        self.dial: Tensor | None = None
        self._tensors = means, weights

    def share(self, step: int) -> float:
        """The share of the weights after `step` in the averages."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, with the share on the device, `dial`, where it is set; nothing waits."""
        means, weights = (tensors() for tensors in self._tensors)
        averaged = []
        for mean, weight in zip(means, weights, strict=True):
            if mean.is_floating_point():
                averaged.append((mean, weight))
            else:
                mean.copy_(weight)
        if self.dial is not None:
            for mean, weight in averaged:
                mean.lerp_(weight, self.dial.to(mean.dtype))
            return
        torch._foreach_lerp_([mean for mean, _ in averaged], [weight for _, weight in averaged], self.share(step))
