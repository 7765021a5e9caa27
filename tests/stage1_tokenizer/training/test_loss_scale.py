"""The loss scale by its rule: halved after a bad update, doubled after 2000 good ones in a row."""

from __future__ import annotations

import pytest
import torch

from stage1_tokenizer.training import loss_scale
from stage1_tokenizer.training.loss_scale import LossScale

GOOD, BAD = torch.tensor(True), torch.tensor(False)


def updated(scale: LossScale, *updates: torch.Tensor) -> float:
    for good in updates:
        scale.update(good)
    return float(scale.value)


def test_it_doubles_after_the_last_of_many_good_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loss_scale.GROW_AFTER == 2000
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    scale = LossScale(torch.device("cpu"))
    assert float(scale.value) == 65536
    assert [updated(scale, GOOD) for _ in range(7)] == [65536, 65536, 131072, 131072, 131072, 262144, 262144]
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 4)
    assert updated(LossScale(torch.device("cpu")), GOOD, GOOD, GOOD) == 65536


def test_a_bad_update_halves_it_and_starts_the_count_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    scale = LossScale(torch.device("cpu"))
    assert updated(scale, GOOD, GOOD, BAD) == 32768
    assert updated(scale, GOOD, GOOD) == 32768
    assert updated(scale, GOOD) == 65536
    assert updated(scale, BAD, BAD) == 16384


def test_it_is_saved_with_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    scale, other = LossScale(torch.device("cpu")), LossScale(torch.device("cpu"))
    updated(scale, BAD, GOOD, GOOD)
    other.load_state_dict(scale.state_dict())
    assert other.good.item() == 2
    assert float(other.value) == 32768 and updated(other, GOOD) == 65536
