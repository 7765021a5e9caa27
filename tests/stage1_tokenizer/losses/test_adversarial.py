"""The adversarial losses against their equations; the adaptive weight against two plain backwards."""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.layers.convolution import CONVOLUTIONS
from stage1_tokenizer.losses.adversarial import (
    LeCam,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)

REAL, FAKE = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 3.0])


def test_hinge() -> None:
    assert float(discriminator_loss("hinge", REAL, FAKE)) == pytest.approx((2.5 / 3 + 5 / 3) / 2)
    assert float(generator_loss("hinge", FAKE)) == pytest.approx(-1 / 3)


def test_logistic() -> None:
    expected = -(torch.sigmoid(REAL).log().mean() + (1 - torch.sigmoid(FAKE)).log().mean()) / 2
    for kind in ("vanilla", "non_saturating"):
        torch.testing.assert_close(discriminator_loss(kind, REAL, FAKE), expected)
    torch.testing.assert_close(generator_loss("vanilla", FAKE), -FAKE.mean())
    torch.testing.assert_close(generator_loss("non_saturating", FAKE), -torch.sigmoid(FAKE).log().mean())


def test_least_squares() -> None:
    assert float(discriminator_loss("least_squares", REAL, FAKE)) == pytest.approx((5.25 / 3 + 13 / 3) / 2)
    assert float(generator_loss("least_squares", FAKE)) == pytest.approx((9 + 1 + 4) / 6)


def test_lecam_follows_its_averages_and_resumes() -> None:
    lecam = LeCam(0.9)
    first = lecam(REAL, FAKE)
    torch.testing.assert_close(first, (REAL - FAKE.mean()).square().mean() + (FAKE - REAL.mean()).square().mean())
    lecam(REAL + 1, FAKE - 1)
    assert float(lecam.real) == pytest.approx(float(REAL.mean()) + 0.1)
    assert float(lecam.fake) == pytest.approx(float(FAKE.mean()) - 0.1)
    other = LeCam(0.9)
    other.load_state_dict(lecam.state_dict())
    assert torch.equal(other(REAL, FAKE), lecam(REAL, FAKE))


def test_lecams_averages_are_no_way_for_a_gradient_and_skip_what_is_not_finite() -> None:
    lecam = LeCam(0.9)
    bad = lecam(torch.full_like(REAL, torch.nan), FAKE)
    assert bad.isnan() and float(lecam.real) == float(lecam.fake) == 0
    lecam = LeCam(0.9)
    lecam(REAL, FAKE)
    real, fake = (REAL + 1).requires_grad_(), (FAKE - 1).requires_grad_()
    found = torch.autograd.grad(lecam(real, fake), (real, fake))
    torch.testing.assert_close(found[0], 2 * (real - lecam.fake).detach() / len(real))
    torch.testing.assert_close(found[1], 2 * (fake - lecam.real).detach() / len(fake))


def test_half_precision_logits_give_float32_losses() -> None:
    assert discriminator_loss("hinge", REAL.bfloat16(), FAKE.bfloat16()).dtype == torch.float32
    assert generator_loss("hinge", FAKE.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_adaptive_weight_is_the_ratio_of_last_layer_gradients(dims: int) -> None:
    torch.manual_seed(0)
    layer = CONVOLUTIONS[dims](5, 3, 3, padding=1).double()
    h = torch.randn(2, 5, *[6] * dims, dtype=torch.float64)
    out = layer(h)
    first, second = (out**2).mean(), (out.sin() / 7).sum()
    norms = [torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in (first, second)]
    at_out = [torch.autograd.grad(loss, out, retain_graph=True)[0] for loss in (first, second)]
    torch.testing.assert_close(adaptive_weight(layer, h, *at_out), norms[0] / (norms[1] + 1e-4))
