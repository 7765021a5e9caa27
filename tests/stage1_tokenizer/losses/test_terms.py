"""Pixel distances against their equations, and the terms built on them."""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.losses.lpips import evenly_spread
from stage1_tokenizer.losses.pixel import PIXEL


def test_pixel_distances() -> None:
    x = torch.tensor([0.0, 0.5, -3.0, 200.0], dtype=torch.float64)
    zero = torch.zeros_like(x)
    assert {name: float(PIXEL[name](zero, zero)) for name in PIXEL} == {name: pytest.approx(0) for name in PIXEL}
    assert float(PIXEL["huber"](x, zero)) == pytest.approx((0.125 + 2.5 + 199.5) / 4)
    torch.testing.assert_close(PIXEL["log_cosh"](x[:3], zero[:3]), x[:3].cosh().log().mean())
    assert float(PIXEL["log_cosh"](x[3:], zero[3:])) == pytest.approx(200 - float(torch.tensor(2.0).log()))


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(4, 1.0, [0, 1, 2, 3]), (4, 0.5, [1, 3]), (8, 0.25, [3, 7]), (3, 0.1, [0])]
)
def test_evenly_spread(count: int, fraction: float, expected: list[int]) -> None:
    assert evenly_spread(count, fraction, torch.device("cpu")).tolist() == expected
