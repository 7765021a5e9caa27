"""One discriminator's part of the step: when it begins, its loss term by term, and what is logged."""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.layers.convolution import CONVOLUTIONS
from stage1_tokenizer.losses.adversarial import adaptive_weight, discriminator_loss
from stage1_tokenizer.training.adversary import Adversary

REAL, FAKE = torch.tensor([2.0, 0.5, 0.0, -1.0, 3.0]), torch.tensor([-2.0, 0.0, 1.0, -0.5, -4.0])


def test_it_begins_at_its_start_and_ramps_up() -> None:
    adversary = Adversary(AdversarialConfig(start=10, ramp=4))
    assert [adversary.ramp(step) for step in (0, 9, 10, 11, 13, 14, 99)] == [None, None, 0.25, 0.5, 1.0, 1.0, 1.0]
    assert [Adversary(AdversarialConfig(start=3, ramp=0)).ramp(step) for step in (2, 3)] == [None, 1.0]


def test_what_is_logged_are_means_without_a_graph() -> None:
    """A logit of 0 says nothing, so it counts as wrong for both."""
    adversary = Adversary(AdversarialConfig(loss="hinge", lecam=0.3))
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    loss, metrics = adversary.loss(real, fake, torch.zeros(5, 1), torch.zeros(5, 1), 0)
    plain = discriminator_loss("hinge", REAL, FAKE).item()
    lecam = ((REAL - FAKE.mean()).square().mean() + (FAKE - REAL.mean()).square().mean()).item()
    assert {name: value.item() for name, value in metrics.items()} == {
        "loss/discriminator": pytest.approx(plain),
        "loss/lecam": pytest.approx(lecam),
        "gan/logits_real": pytest.approx(REAL.mean().item()),
        "gan/logits_fake": pytest.approx(FAKE.mean().item()),
        "gan/accuracy": pytest.approx((3 / 5 + 3 / 5) / 2),
    }
    assert loss.item() == pytest.approx(plain + 0.3 * lecam)
    assert loss.requires_grad and not any(value.requires_grad for value in metrics.values())


def test_a_guess_is_right_on_its_side_of_the_losses_targets() -> None:
    adversary = Adversary(AdversarialConfig(loss="least_squares"))  # 1 and 0
    _, metrics = adversary.loss(torch.tensor([0.9, 0.4]), torch.tensor([0.1, 0.3]), REAL, FAKE, 0)
    assert metrics["gan/accuracy"].item() == pytest.approx((1 / 2 + 1) / 2)


def test_penalties_come_every_so_many_steps_from_the_start_on_and_weigh_as_much() -> None:
    """γ/2 · ‖∇D‖² (Mescheder et al. 2018, eq. 9), times the steps between two of them."""
    config = AdversarialConfig(loss="non_saturating", penalty=4.0, penalty_fake=2.0, penalty_every=3, start=1)
    adversary = Adversary(config)
    assert [adversary.penalised(step) for step in range(1, 8)] == [True, False, False, True, False, False, True]
    x, x_hat = (torch.randn(5, 2, requires_grad=True) for _ in range(2))
    real, fake = (3 * x).sum(1), (2 * x_hat).sum(1)  # so the squared norms are 2·3² and 2·2²
    plain = discriminator_loss("non_saturating", real, fake).item()
    loss, metrics = adversary.loss(real, fake, x, x_hat, 4)
    assert (metrics["gan/penalty"].item(), metrics["gan/penalty_fake"].item()) == (18, 8)
    assert loss.item() == pytest.approx(plain + 3 * (4 / 2 * 18 + 2 / 2 * 8))
    assert not any(value.requires_grad for value in metrics.values())
    loss, metrics = adversary.loss(real, fake, x, x_hat, 5)
    assert loss.item() == pytest.approx(plain) and "gan/penalty" not in metrics


def test_the_adaptive_weight_is_limited_and_scaled() -> None:
    layer = CONVOLUTIONS[2](3, 1, 3, padding=1)
    features, rec, adv = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    ratio = adaptive_weight(layer, features, rec, adv)
    free = Adversary(AdversarialConfig(weight=0.5, adaptive_limit=1e9)).weight(layer, features, rec, adv)
    torch.testing.assert_close(free, 0.5 * ratio)
    limited = Adversary(AdversarialConfig(weight=0.5, adaptive_limit=1e-3)).weight(layer, features, rec, adv)
    assert limited.item() == pytest.approx(0.5e-3)
    fixed = Adversary(AdversarialConfig(weight=0.5, adaptive=False)).weight(layer, features, rec, adv)
    assert fixed.item() == 0.5


def test_metrics_carry_its_suffix() -> None:
    value = torch.ones(())
    assert Adversary(AdversarialConfig(), "/2").named({"gan/weight": value}) == {"gan/weight/2": value}
