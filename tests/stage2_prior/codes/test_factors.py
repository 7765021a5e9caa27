"""Codes in factors of a few bits."""

from __future__ import annotations

import pytest
import torch

from launch.command.cli import UserError
from stage2_prior.codes.factors import digits, factors_for, joined, split_evenly


def test_factors_are_the_digits_of_codes_and_as_equal_as_possible() -> None:
    code_X = torch.tensor([0, 5, 63, 37, -1])
    assert digits(code_X, [2, 1, 3]).tolist() == [[0, 0, 0], [0, 0, 5], [3, 1, 7], [2, 0, 5], [-1, -1, -1]]
    wide_X = torch.tensor([(1 << 40) - 3, 1 << 33])
    assert torch.equal(joined(digits(wide_X, [1] * 40), [1] * 40), wide_X)
    assert [split_evenly(bits) for bits in (4, 10, 18, 20)] == [(4,), (5, 5), (6, 6, 6), (6, 7, 7)]
    with pytest.raises(UserError, match=r"model.factors=\[9, 8\] are not the 18 bits"):
        factors_for("masked", "bits", [9, 8], 1 << 18)
    with pytest.raises(UserError, match="a power of 2, not 24"):
        factors_for("autoregressive", "factors", None, 24)
