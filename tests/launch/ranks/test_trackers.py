"""Trackers that can't work are refused at the start, in one line; one that fails later ends no run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from accelerate.utils import LoggerType

from launch.command.cli import UserError
from launch.config import RunConfig
from launch.ranks import trackers
from launch.run import metrics
from launch.run.starting import start_run
from tests.distributed import run_distributed_test
from tests.launch.run.test_starting import JobConfig


def configured(folder: Path, *names: str) -> JobConfig:
    return JobConfig(RunConfig(str(folder / "run"), trackers=list(names)))


def refusal(config: JobConfig) -> str:
    with pytest.raises(UserError) as error, start_run(config, config.run):
        pass
    return str(error.value)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_one_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    others = {"wandb", "tensorboard"} - {name}
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: sorted(others))
    told = refusal(configured(tmp_path, *others, name))
    (other,) = others
    assert told.startswith(
        f"run.trackers has {name}, which is not installed: `pip install {name}`, or set run.trackers"
    )
    assert f"run.trackers to [{other}]" in told
    assert not (tmp_path / "run").exists()


class Login(ModuleType):
    """A wandb that nobody is logged in to."""

    def init(self, **settings: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty).\nCall `wandb login`")


def with_login(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Login("wandb"))
    for place in (trackers, sys.modules["accelerate.tracking"]):
        monkeypatch.setattr(place, "get_available_trackers", lambda: [LoggerType.WANDB, LoggerType.TENSORBOARD])


def test_one_that_nobody_is_logged_in_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_login(monkeypatch)
    told = refusal(configured(tmp_path, "tensorboard", "wandb"))
    assert told.startswith(
        "run.trackers has wandb, which can't start (RuntimeError: api_key not configured (no-tty)): "
    )
    assert "run `wandb login`, or set WANDB_MODE=offline, or set run.trackers to [tensorboard]" in told


def refused_together(folder: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        with_login(patch)
        return refusal(configured(Path(folder), "wandb"))


def test_all_ranks_are_refused_together(tmp_path: Path) -> None:
    one, other = run_distributed_test(refused_together, 2, [str(tmp_path)])
    assert one == other and "wandb, which can't start" in one


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vqloom").write_text("a file where the folder should be")
    told = refusal(configured(tmp_path, "tensorboard"))
    assert told.startswith("run.trackers has tensorboard, which can't start (")
    assert f"let this process write into {tmp_path / 'run'}/vqloom, or set run.trackers to []" in told


def test_one_that_fails_later_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path, "tensorboard")
    with start_run(config, config.run) as run:
        (tracker,) = run.accelerator.trackers

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tracker, "log", full)
        monkeypatch.setattr(tracker, "finish", full)
        for step in range(3):
            run.log(step, {"eval/psnr": 20.0})
    told = capsys.readouterr().err
    assert told.count("warning: run.trackers=['tensorboard'] can't take step 0 (OSError: [Errno 28] No space left") == 1
    assert told.count("warning: the tracker tensorboard has lost lines") == 1
    assert len(metrics.read(tmp_path / "run" / metrics.FILE)) == 3
