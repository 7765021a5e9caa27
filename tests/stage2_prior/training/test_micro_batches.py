"""A run begun on four ranks goes on with one: the same samples, noise and loss curve. (From two: test_strategies.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.command.exit_codes import STOPPED
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorOptimizerConfig, PriorTrainConfig
from stage2_prior.train import train
from tests.distributed import run_distributed_test
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.training.test_strategies import losses, settings, train_until


def elastic(coded: Coded, folder: Path) -> PriorTrainConfig:
    """A masked prior, whose loss is a mean over as many codes as chance masks; 8 samples, 2 at once."""
    model = PriorModelConfig(kind="masked", layers=1, width=16, heads=2, class_dropout=0.5)
    changes: dict[str, Any] = {"model": model, "steps": 9, "evaluate_every": 1000}
    return settings(coded, folder, micro_batch=2, **changes)


def on_a_rank(coded: Coded, place: Path) -> None:
    assert train_until(elastic(coded, place), 5) == STOPPED


def test_the_parts_follow_the_ranks(coded: Coded, tmp_path: Path):
    config = elastic(coded, tmp_path)
    assert [config.micro_batches(ranks) for ranks in (1, 2, 4, 8)] == [4, 2, 1, 1]
    with pytest.raises(ValueError, match=r"optimizer\.accumulate=2 and data\.micro_batch=2 both split the batch"):
        settings(coded, tmp_path, micro_batch=2, optimizer=PriorOptimizerConfig(accumulate=2))


@pytest.mark.slow
def test_four_ranks_and_one_give_one_loss_curve(coded: Coded, tmp_path: Path):
    run_distributed_test(on_a_rank, 4, (coded, tmp_path / "changing"))
    assert train(elastic(coded, tmp_path / "changing")) == 0
    assert train(elastic(coded, tmp_path / "one")) == 0
    found, expected = losses(tmp_path / "changing"), losses(tmp_path / "one")
    assert len(found) == len(expected) == 9
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 9
