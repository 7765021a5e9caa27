"""What is due, the learning rate, and old names of the optimizer's settings and of metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import UserError, parse
from launch.command.renamed import with_new_keys
from launch.config import OptimizerConfig
from launch.run.metrics import read
from launch.run.schedule import descend, due, learning_rate
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage2_prior.config.training import PriorOptimizerConfig, PriorTrainConfig


def test_rates():
    config = OptimizerConfig(warmup=4, decay="cosine", final=0.1)
    shares = [learning_rate(config, step, 14, peak=1.0) for step in range(14)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[4:] == sorted(shares[4:], reverse=True) and shares[-1] == pytest.approx(0.1)
    assert learning_rate(OptimizerConfig(warmup=2), 100, 10, peak=1.0) == 1.0


def test_the_cosine_at_named_steps():
    """A third of the way down 3/4 of what there is to lose is left, half of the way 1/2, two thirds 1/4."""
    config = OptimizerConfig(learning_rate=2.0, warmup=4, decay="cosine", final=0.1)
    for step, share in ((0, 0.25), (3, 1.0), (4, 1.0), (8, 0.1 + 0.9 * 0.75), (10, 0.55), (12, 0.1 + 0.9 * 0.25)):
        assert learning_rate(config, step, 17, peak=1.0) == pytest.approx(share), step
        assert learning_rate(config, step, 17) == pytest.approx(2 * share), step
    assert [learning_rate(config, step, 17, peak=1.0) for step in (16, 17, 40)] == [pytest.approx(0.1)] * 3
    assert learning_rate(OptimizerConfig(decay="cosine", final=0.1), 0, 1, peak=1.0) == 1.0
    assert learning_rate(OptimizerConfig(warmup=4, decay="cosine", final=0.1), 4, 5, peak=1.0) == 1.0


@pytest.mark.parametrize("good", [True, False])
def test_a_step_down_takes_the_rate_and_leaves_weights_alone_after_a_bad_gradient(good: bool):
    weights = [torch.nn.Parameter(torch.tensor([1.0])), torch.nn.Parameter(torch.tensor([2.0]))]
    optimizer = torch.optim.SGD([{"params": [weight]} for weight in weights], lr=7.0, fused=True)
    for weight in weights:
        weight.grad = torch.tensor([0.5 if good else torch.inf])
    descend(optimizer, 0.2, torch.tensor(good))
    assert [weight.item() for weight in weights] == pytest.approx([0.9, 1.9] if good else [1.0, 2.0])
    assert all(weight.grad is None for weight in weights)
    assert all(group["lr"] == 0.2 for group in optimizer.param_groups)


def test_what_is_due():
    assert due(1, 1, began=0) and not due(0, 1, began=0), "nothing is due before the first step"
    assert due(6, 3, began=0) and not due(7, 3, began=0)
    assert not due(6, 3, began=6), "it was done before the run was interrupted"
    assert not due(6, 0, began=0)


def test_learning_rate_rises_then_falls():
    config = PriorOptimizerConfig(learning_rate=1.0, warmup=10, final=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_old_names_of_settings() -> None:
    tokenizer: Any = parse(TokenizerTrainConfig, ["--run.folder", "r", "--optimizer.betas", "[0.1, 0.2]"], prog="test")
    assert (tokenizer.optimizer.beta1, tokenizer.optimizer.beta2) == (0.1, 0.2)
    old = {"optimizer": {"warmup_steps": 7, "final_share": 0.5, "clip_norm": 2.0, "beta1": 0.8}}
    new = {"optimizer": {"warmup": 7, "final": 0.5, "clip": 2.0, "beta1": 0.8}}
    assert with_new_keys(old, PriorTrainConfig) == new
    betas = {"optimizer": {"betas": [0.5, 0.9], "warmup": 3}}
    assert with_new_keys(betas, TokenizerTrainConfig) == {"optimizer": {"beta1": 0.5, "beta2": 0.9, "warmup": 3}}
    with pytest.raises(UserError, match=r"optimizer\.beta1,beta2"):
        parse(TokenizerTrainConfig, ["--run.folder", "r", "--optimizer.betas", "0.5"], prog="test")


def test_old_names_of_metrics(tmp_path: Path) -> None:
    line = {"step": 3, "time": 1.0, "kind": "train", "gradient_norm": 0.5, "learning_rate": 0.1, "loss/total": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read(tmp_path / "metrics.jsonl")
    assert (found["optimizer/gradient_norm"], found["optimizer/learning_rate"]) == (0.5, 0.1)
    assert found["loss/total"] == 2 and "gradient_norm" not in found


def test_each_stage_keeps_its_defaults() -> None:
    ours, prior = OptimizerConfig(), PriorOptimizerConfig()
    assert (ours.learning_rate, ours.beta1, ours.beta2, ours.warmup, ours.decay) == (1e-4, 0.5, 0.9, 0, "constant")
    assert (prior.learning_rate, prior.beta1, prior.beta2, prior.warmup, prior.decay) == (
        1e-3,
        0.9,
        0.95,
        100,
        "cosine",
    )
    assert (ours.weight_decay, ours.final, prior.weight_decay, prior.final) == (0.0, 0.0, 0.05, 0.05)
    assert (ours.clip, ours.ema_decay) == (prior.clip, prior.ema_decay) == (1.0, 0.999)
