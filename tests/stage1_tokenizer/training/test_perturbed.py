"""Perturbed codes in training: who draws what, when, and that runs resume."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from launch.command.cli import parse
from stage1_tokenizer.config.perturb import PerturbConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.quantizers.base import Quantizer
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage1_tokenizer.training.inputs import Perturbing
from tests.stage1_tokenizer import tiny

SHAPE = (3, 2)
PUBLISHED = PerturbConfig(samples=0.1)
ON = {"model__quantizer__perturb__samples": 0.6, "model__quantizer__perturb__nearest": 5, "data__held_out": "null"}


def test_the_strength_falls_as_published():
    done = [epoch / 200 for epoch in (0, 40, 80, 120, 200)]
    assert [PUBLISHED.strength(share) for share in done] == [1.0, 1.0, 0.75, 0.5, 0.5]
    assert PerturbConfig(anneal_from=0.5, anneal_until=0.5).strength(0.51) == 0.5


def test_the_draws_are_the_samples_own_whatever_the_ranks():
    perturbing = Perturbing(PerturbConfig(samples=0.3, share=0.5, nearest=8), batch=64, seed=1)
    whole = perturbing.draw(5, 0.0, slice(0, 64), SHAPE)
    assert whole is not None
    rows, ranks = [], []
    for rank in range(4):
        part = perturbing.draw(5, 0.0, slice(16 * rank, 16 * rank + 16), SHAPE)
        if part is not None:
            rows.append(part[0] + 16 * rank)
            ranks.append(part[1])
    assert torch.equal(torch.cat(rows), whole[0]) and torch.equal(torch.cat(ranks), whole[1])
    other = perturbing.draw(6, 0.0, slice(0, 64), SHAPE)
    assert other is not None and not torch.equal(other[0], whole[0])
    late = perturbing.draw(5, 1.0, slice(0, 64), SHAPE)
    assert late is not None and torch.equal(late[0], whole[0]) and int(late[1].max()) < 4 <= int(whole[1].max())


def test_the_share_of_samples_is_binomial():
    perturbing = Perturbing(PUBLISHED, batch=100, seed=0)
    drawn = [perturbing.draw(step, 0.0, slice(0, 100), SHAPE) for step in range(100)]
    count = sum(0 if chosen is None else len(chosen[0]) for chosen in drawn)
    assert abs(count - 1000) < 4.5 * math.sqrt(10_000 * 0.1 * 0.9)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return open_run(folder).tokenizer.weights()


def run(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    config = parse(TokenizerTrainConfig, tiny.arguments(folder, **{"steps": 4, **changes}), prog="test")
    assert train(config) == 0
    return weights(folder)


def test_a_run_resumes_and_evaluates_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain, whole, called = Quantizer.perturbed, run(tmp_path / "whole", **ON), []

    def counted(self: Quantizer, *others: object) -> torch.Tensor:
        assert self.training
        called.append(1)
        if len(called) == 3:
            raise KeyboardInterrupt
        return plain(self, *others)  # type: ignore[arg-type]

    off = run(tmp_path / "off", data__held_out="null")
    assert any(not torch.equal(off[name], weight) for name, weight in whole.items())
    monkeypatch.setattr(Quantizer, "perturbed", counted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", **ON)
    again = run(tmp_path / "parts", **ON)
    assert len(called) > 3 and all(torch.equal(again[name], weight) for name, weight in whole.items())
