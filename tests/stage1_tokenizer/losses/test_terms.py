"""Pixel distances against their equations, and the terms built on them."""

from __future__ import annotations

import pytest
import torch

from launch.command.cli import UserError
from stage1_tokenizer.config.losses import PerceptualConfig
from stage1_tokenizer.losses.lpips import PerceptualTerm, evenly_spread
from stage1_tokenizer.losses.pixel import PIXEL
from stage1_tokenizer.losses.term import Term, further_terms


def test_pixel_distances() -> None:
    x = torch.tensor([0.0, 0.5, -3.0, 200.0], dtype=torch.float64)
    zero = torch.zeros_like(x)
    assert {name: float(PIXEL[name](zero, zero)) for name in PIXEL} == {name: pytest.approx(0) for name in PIXEL}
    assert float(PIXEL["huber"](x, zero)) == pytest.approx((0.125 + 2.5 + 199.5) / 4)
    torch.testing.assert_close(PIXEL["log_cosh"](x[:3], zero[:3]), x[:3].cosh().log().mean())
    y = torch.tensor([1.0, -2.0, 0.5, 7.0], dtype=torch.float64)
    for name, distance in PIXEL.items():
        torch.testing.assert_close(distance(x, y), distance(x - y, zero), msg=name)
        torch.testing.assert_close(distance(x, y), distance(y, x), msg=name)
    assert float(PIXEL["log_cosh"](x[3:], zero[3:])) == pytest.approx(200 - float(torch.tensor(2.0).log()))


class Square(Term):
    name = "square"

    def __init__(self, weight: float = 1.0, power: int = 2):
        super().__init__(weight)
        self.power = power

    def forward(self, x_hat_BCHW: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
        return (x_hat_BCHW - x_BCHW).pow(self.power).mean()


def test_a_term_gives_its_value_and_its_weighted_gradient_without_a_graph() -> None:
    x_hat, x = torch.randn(2, 1, 3, 3, requires_grad=True), torch.randn(2, 1, 3, 3)
    assert Term().weight == 1
    value, gradient = Square(3.0).at(x_hat * 1, x)
    assert x_hat.grad is None
    assert not value.requires_grad and not gradient.requires_grad
    assert float(value) == pytest.approx((x_hat - x).square().mean().item())
    torch.testing.assert_close(gradient, (3 * 2 * (x_hat - x) / x.numel()).detach())


def test_terms_are_taken_from_their_table_by_name() -> None:
    table = {"square": Square, "cube": Square}
    one, other = further_terms({"square": 0.5, "cube": {"weight": 2, "power": 3}}, table)
    assert isinstance(one, Square) and (one.weight, one.power) == (0.5, 2)
    assert isinstance(other, Square) and (other.weight, other.power) == (2, 3)
    assert further_terms({"square": 0, "cube": {"weight": 0.0}}, table) == []
    with pytest.raises(UserError, match=r"loss\.terms\.quad is unknown \(cube, square\): remove it"):
        further_terms({"quad": 1.0}, table)
    with pytest.raises(UserError, match="there are none for this kind of data"):
        further_terms({"quad": 1.0}, {})
    for wrong in ("much", {"strength": 1}):
        with pytest.raises(UserError, match=r"loss\.terms\.cube=.* can't be used"):
            further_terms({"cube": wrong}, table)


class Distance(torch.nn.Module):
    """In place of LPIPS: one value for each picture."""

    def forward(self, x_hat_BCHW: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
        return (x_hat_BCHW - x_BCHW).square().flatten(1).mean(1)


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_the_perceptual_term_is_a_mean_over_its_share_of_the_batch(micro_batch: int | None) -> None:
    config = PerceptualConfig(weight=1.5, fraction=0.5)
    term = PerceptualTerm(config, Distance())  # type: ignore[arg-type]
    x_hat, x = torch.randn(6, 1, 3, 3, requires_grad=True), torch.randn(6, 1, 3, 3)
    value, gradient = term.at(x_hat, x, micro_batch)
    chosen = x_hat.detach()[1::2].requires_grad_()
    wanted = (chosen - x[1::2]).square().mean()
    assert not value.requires_grad and float(value) == pytest.approx(wanted.item())
    torch.testing.assert_close(gradient[1::2], 1.5 * torch.autograd.grad(wanted, chosen)[0])
    assert not gradient[::2].any(), "the others have no part in it"


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(4, 1.0, [0, 1, 2, 3]), (4, 0.5, [1, 3]), (8, 0.25, [3, 7]), (3, 0.1, [0])]
)
def test_evenly_spread(count: int, fraction: float, expected: list[int]) -> None:
    assert evenly_spread(count, fraction, torch.device("cpu")).tolist() == expected
