"""Which codes a step of a masked prior fills in: how many, and by certainty or far apart.

Shapes: B batch, N codes, K codes to choose from.
"""

import math

import torch
from torch import Tensor

from stage2_prior.config.drawing import Drawing


def still_masked(step: int, steps: int) -> float:
    """Share of the codes that is still masked after `step` of `steps` steps: cos(π/2 · step/steps)."""
    return math.cos(math.pi / 2 * step / steps) if step < steps else 0.0


def log_of(logits_BNK: Tensor, drawn_BN: Tensor) -> Tensor:
    """Log-probability of the codes drawn."""
    return logits_BNK.log_softmax(-1).gather(2, drawn_BN[..., None])[..., 0]


def with_noise(log_BN: Tensor, uniform_BN: Tensor, drawing: Drawing, step: int) -> Tensor:
    """Log-probabilities plus Gumbel noise that decreases to 0 at the last step."""
    gumbel_BN = -torch.log(-torch.log(uniform_BN.clamp(1e-7, 1 - 1e-7)))
    return log_BN + drawing.choice_temperature * (1 - (step + 1) / drawing.steps) * gumbel_BN


def rank(score_BN: Tensor) -> Tensor:
    """Place of each score in its row, 0 for the highest."""
    return score_BN.argsort(stable=True, dim=1, descending=True).argsort(1)


def halton_order(*grid: int) -> Tensor:
    """All positions of a grid, int64 (h·w,), in the order in which the Halton sequence in bases 2 and 3 hits them.

    Latent tokens, which have no place, count as one row. Time, as the first of three axes, has base 5.
    """
    sides = grid if len(grid) > 1 else (1, *grid)
    bases = (5, 2, 3)[-len(sides) :]
    order: dict[int, None] = {}
    number = 0
    while len(order) < math.prod(sides):
        number, place = number + 1, 0
        for side, base in zip(sides, bases, strict=True):
            place = place * side + int(_halton(number, base) * side)
        order.setdefault(place)
    return torch.tensor(list(order))


def _halton(number: int, base: int) -> float:
    """The radical inverse: a number's digits in a base, mirrored at the point."""
    value, place = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        value += digit * place
        place /= base
    return value
