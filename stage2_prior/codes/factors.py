"""Codes out of 2^L in factors of a few bits each, so that nothing has to have a row for each code.

The factors of a code are the digits of its number, the most significant bits first: of lfq and bsq the first channels.
(Luo et al. 2024, Open-MAGVIT2, section 3.2)

Shapes: X any axes of codes, F factors.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from launch.command.cli import UserError

MOST_BITS = 8
"""Of a factor, where nothing else is set."""


def factors_for(kind: str, head: str, factors: Sequence[int] | None, codebook_size: int) -> tuple[int, ...]:
    """Bits of the factors in which a prior reads codes, by its `model.kind`, `head` and `factors`; of softmax none.

    UserError where there are not 2^L codes, or where the factors are not of L bits.
    """
    if head == "softmax":
        return ()
    bits = codebook_size.bit_length() - 1
    if codebook_size != 1 << bits or not bits:
        raise UserError(
            f"model.head={head} needs codes whose number is a power of 2, not {codebook_size}: set it to softmax"
        )
    if head == "bits" and kind == "autoregressive":
        return (1,) * bits
    if factors is not None and sum(factors) != bits:
        raise UserError(
            f"model.factors={list(factors)} are not the {bits} bits of {codebook_size} codes: set it to null"
        )
    return tuple(factors) if factors else split_evenly(bits)


def split_evenly(bits: int, most: int = MOST_BITS) -> tuple[int, ...]:
    """As few factors as possible of at most `most` bits, as equal as possible, larger ones last."""
    count = -(-bits // most)
    return tuple(bits * (number + 1) // count - bits * number // count for number in range(count))


def digits(code_X: Tensor, factors: Sequence[int]) -> Tensor:
    """The factors of codes, digit_XF; all -1 of a code that is negative."""
    shifts, sizes = _shifts(factors), [1 << bits for bits in factors]
    digit_XF = code_X[..., None] >> numbers(shifts, code_X.device) & numbers(
        [size - 1 for size in sizes], code_X.device
    )
    return torch.where(code_X[..., None] < 0, -1, digit_XF)


def joined(digit_XF: Tensor, factors: Sequence[int]) -> Tensor:
    """The codes of factors that are all there, code_X: undoes `digits`."""
    return (digit_XF << numbers(_shifts(factors), digit_XF.device)).sum(-1)


def numbers(values: Sequence[int], device: torch.device) -> Tensor:
    """A few numbers, int64, made on the device: a copy from the host would make it wait."""
    steps = {after - before for before, after in pairwise(values)}
    if len(steps) <= 1:
        return torch.arange(len(values), device=device) * (steps.pop() if steps else 0) + values[0]
    return torch.cat([torch.full((1,), value, device=device) for value in values])


def _shifts(factors: Sequence[int]) -> list[int]:
    """Bits after each factor."""
    return [sum(factors) - done for done in accumulate(factors)]
