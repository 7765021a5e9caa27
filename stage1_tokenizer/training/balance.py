"""Weights as shares of the gradient at the reconstruction: EnCodec's loss balancer.

Legend: B batch, C channels, T samples (or any other axes), N terms.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from launch.ranks.reduce import all_mean, world

EPSILON = 1e-12
"""Added to a norm before it divides."""


class Pull(NamedTuple):
    """What a term asks of the reconstruction."""

    gradient: Tensor
    """Its gradient at x', with the factor `within`, above 0, in it already."""
    within: float
    weight: float | Tensor
    """Its weight, with its ramp."""


class Balance:
    """G = Σᵢ wᵢ/Σw · gᵢ/average(‖gᵢ‖). (Défossez et al. 2022, eq. 4, with R = 1)

    ‖gᵢ‖ is the norm of one sample's gradient, mean over the global batch; its average over steps weighs the past by
    `decay` and counts from the first step that has the term. Several ranks get what one gets on the same batch. The
    averages are part of a checkpoint; steps whose gradients aren't finite leave them as they are.
    """

    def __init__(self, names: Sequence[str], decay: float, device: torch.device | str = "cpu"):
        """`names` are those of all terms that a step may have."""
        self.decay = decay
        self.names = list(names)
        self.sums_N = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self.counts_N = torch.zeros_like(self.sums_N)

    def __call__(self, pulls: Mapping[str, Pull]) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient G at x', and the average norm of each term, by name, of one or more. Every rank calls it."""
        at = [self.names.index(name) for name in pulls]
        norms = [_norm(pull.gradient) / pull.within for pull in pulls.values()]
        # A rank's terms are means over its part of the batch: its samples' gradients are larger by the number of ranks.
        norm_M = all_mean(torch.stack(norms).to(self.sums_N)) / world()[1]
        good_M = norm_M.isfinite()
        for number, norm, good in zip(at, norm_M, good_M, strict=True):
            kept, count = self.sums_N[number], self.counts_N[number]
            kept.copy_(torch.where(good, self.decay * kept + norm, kept))
            count.copy_(torch.where(good, self.decay * count + 1, count))
        averages = {name: self.sums_N[number] / self.counts_N[number] for name, number in zip(pulls, at, strict=True)}
        whole = sum(pull.weight for pull in pulls.values())
        total: Tensor | None = None
        for name, (gradient, within, weight) in pulls.items():
            share = (weight / whole) / ((EPSILON + averages[name]) * within)
            balanced = share.to(gradient.dtype) * gradient
            total = balanced if total is None else total + balanced
        assert total is not None
        return total, {f"balance/{name}": value.float() for name, value in averages.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The averages: of each term the sum of norms and of their weights."""
        return {name: torch.stack(pair) for name, *pair in zip(self.names, self.sums_N, self.counts_N, strict=True)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the averages of the terms that there are."""
        for number, name in enumerate(self.names):
            if name in state:
                self.sums_N[number], self.counts_N[number] = state[name].to(self.sums_N)


def _norm(gradient: Tensor) -> Tensor:
    """Norm of each sample's gradient, mean over the batch."""
    return torch.linalg.vector_norm(gradient.double().flatten(1), dim=1).mean()
