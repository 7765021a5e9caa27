"""What keeps a run's checkpoints good: no loss that isn't a number gets into one, no full disk takes the old ones."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.checkpoints import folders
from launch.checkpoints import store as checkpoint
from launch.command.cli import UserError
from launch.config import RunConfig
from launch.run.bad_updates import NotFiniteError
from launch.run.runtime import Run
from launch.run.starting import start_run
from tests.distributed import run_distributed_test


def settings(folder: Path, **more: Any) -> RunConfig:
    return RunConfig(folder=str(folder), trackers=[], log_every=5, **more)


def two_losses(folder: str, bad: float) -> str:
    """Two ranks, one of them with a bad loss at step 2; what stops them and when."""
    config = settings(Path(folder))
    with start_run(config, config) as run:
        try:
            for step in range(10):
                loss = bad if (step, run.rank) == (2, 1) else 1.0
                run.record({"loss/rec": torch.tensor(loss)}, step=step)
        except NotFiniteError as error:
            return f"step {step}: {error}"
    return "never"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_all_ranks_at_the_next_line(tmp_path: Path, bad: float) -> None:
    first, second = run_distributed_test(two_losses, args=(str(tmp_path / "run"), bad))
    assert first == second
    assert first.startswith("step 4: a loss is not finite (loss/rec on rank 1): ")


def test_nothing_is_saved_after_such_a_loss(tmp_path: Path) -> None:
    config = settings(tmp_path / "run")
    with start_run(config, config) as run:
        run.record({"loss/rec": 1.0, "other": math.nan}, step=0)
        checkpoint.save(run.folder, 1, {"model": torch.nn.Linear(2, 2)}, run)
        run.record({"loss/rec": math.nan}, step=1)
        with pytest.raises(NotFiniteError):
            checkpoint.save(run.folder, 2, {"model": torch.nn.Linear(2, 2)}, run)
    assert folders.steps(tmp_path / "run") == [1]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("launch.checkpoints.writing.write", write)


def save_twice(run: Run, request: pytest.FixtureRequest) -> Path | None:
    checkpoint.save(run.folder, 1, {"model": torch.nn.Linear(2, 2)}, run)
    request.getfixturevalue("full_disk")
    return checkpoint.save(run.folder, 2, {"model": torch.nn.Linear(2, 2)}, run, keep=1)


def test_a_full_disk_stops_the_run_and_leaves_the_older_checkpoint(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = settings(tmp_path / "run")
    with (
        pytest.raises(
            UserError, match=r"step 2 in .*run can't be written \(.*No space.*\); that of step 1 is the newest"
        ),
        start_run(config, config) as run,
    ):
        save_twice(run, request)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000000001"]


def test_a_full_disk_is_warned_of_where_the_run_may_go_on(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path / "run", on_save_error="continue")
    with start_run(config, config) as run:
        assert save_twice(run, request) is None
    assert f"warning: the checkpoint of step 2 in {run.folder} can't be written" in capsys.readouterr().err
    assert folders.steps(tmp_path / "run") == [1]
