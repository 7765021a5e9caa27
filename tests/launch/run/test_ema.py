"""Averaged weights against their sum written out."""

from __future__ import annotations

import pytest
import torch

from launch.run.ema import Ema


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_an_average_is_its_weighted_sum(decay: float) -> None:
    """mean = d·mean + (1 - d)·weight with d = min(decay, (1 + step) / (10 + step)), from step 0 on."""
    mean, weight = torch.zeros(2), torch.zeros(2)
    ema = Ema(decay, lambda: [mean], lambda: [weight])
    wanted = 0.0
    for step, value in enumerate((1.0, -2.0, 0.5, 4.0)):
        weight.fill_(value)
        ema.update(step)
        share = min(decay, (1 + step) / (10 + step))
        wanted = share * wanted + (1 - share) * value
        assert mean.tolist() == pytest.approx([wanted] * 2, rel=1e-6)
    weight.fill_(1.0)
    mean.fill_(0.0)
    ema.update(10**9)
    assert mean.tolist() == pytest.approx([1 - decay] * 2, rel=1e-6)


def test_whole_numbers_are_copied_and_no_graph_is_kept() -> None:
    means = [torch.zeros(1), torch.tensor([1])]
    weights = [torch.ones(1, requires_grad=True), torch.tensor([5])]
    Ema(0.999, lambda: means, lambda: weights).update(0)
    assert means[1].tolist() == [5]
    assert means[0].item() == pytest.approx(0.9) and not means[0].requires_grad


def test_averages_and_weights_must_be_as_many() -> None:
    with pytest.raises(ValueError):
        Ema(0.9, lambda: [torch.zeros(1)], lambda: []).update(0)
