"""Updates whose gradients are no numbers: skipped, then a turn back, then a clear end; on all ranks alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from launch.command.cli import parse
from launch.run.bad_updates import NotFiniteError, rollbacks
from launch.run.metrics import read
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage1_tokenizer.training.step import OneForwardStep, StepResult
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny


def configured(folder: Path, **changes: Any) -> TokenizerTrainConfig:
    absolute = {"data__index": tiny.ROOT / tiny.TRAIN, "data__held_out": "null"}
    return parse(TokenizerTrainConfig, tiny.arguments(folder, **{**absolute, **changes}), prog="test")


def spoil(monkeypatch: pytest.MonkeyPatch, first: int, last: int, folder: Path, turns: int = 99) -> None:
    """Put an infinite value into a gradient at these steps, as long as the run turned back fewer than `turns` times."""
    original = OneForwardStep.__call__

    def spoilt(
        self: OneForwardStep, generator: nn.Module, nets: Sequence[nn.Module], x: torch.Tensor, step: int, *more: Any
    ) -> StepResult:
        result = original(self, generator, nets, x, step, *more)
        if first <= step <= last and len(rollbacks(folder)) < turns:
            gradient = next(generator.parameters()).grad
            assert gradient is not None
            gradient.view(-1)[0] = math.inf
            result.metrics["loss/rec"] = result.metrics["loss/rec"] * math.nan
        return result

    monkeypatch.setattr(OneForwardStep, "__call__", spoilt)


def test_one_bad_update_is_skipped_counted_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 7, 7, tmp_path)
    assert train(configured(tmp_path, run__keep=8)) == 0
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["updates/skipped"] for line in lines if line["kind"] == "train"][-2:] == [0, 1]
    assert (
        "1 update skipped, whose gradients were not finite (loss/rec on rank 0)" in (tmp_path / "log.txt").read_text()
    )
    states = [
        torch.load(tmp_path / "checkpoints" / f"step-{step:09d}" / "tokenizer_optimizer.pt", weights_only=True)
        for step in (6, 8)
    ]
    steps = [float(next(iter(state["state"].values()))["step"]) for state in states]
    assert steps == [6, 7]  # the moments know of seven updates only
    assert all(bool(weight.isfinite().all()) for weight in open_run(tmp_path).tokenizer.weights().values())


def test_too_many_in_a_row_turn_the_run_back_with_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 4, 99, tmp_path, turns=1)
    assert train(configured(tmp_path, run__skip_limit=1)) == 0
    assert "2 updates in a row" in rollbacks(tmp_path)[0]["why"]
    log = (tmp_path / "log.txt").read_text()
    assert "rolling back to the newest checkpoint, with another order of samples" in log
    assert all(bool(weight.isfinite().all()) for weight in open_run(tmp_path).tokenizer.weights().values())


def always_bad(folder: str) -> str:
    with pytest.MonkeyPatch.context() as monkeypatch:
        if torch.distributed.get_rank() == 1:
            spoil(monkeypatch, 3, 99, Path(folder))
        try:
            train(configured(Path(folder), run__skip_limit=0, run__rollbacks=1, steps=6))
        except NotFiniteError as error:
            return str(error)
    return "no error"


def test_after_the_last_turn_back_all_ranks_stop_with_a_way_out(tmp_path: Path) -> None:
    first, second = run_distributed_test(always_bad, args=(str(tmp_path / "run"),))
    assert first == second
    assert "after 1 rollbacks to a checkpoint: lower the learning rate" in first
    assert "loss/rec on rank 1" in first
