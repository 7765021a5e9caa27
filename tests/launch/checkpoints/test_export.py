"""Looking at checkpoints, and which of them are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.checkpoint import main
from launch.checkpoints import folders
from launch.checkpoints import store as checkpoint
from launch.checkpoints.folders import to_delete
from launch.command.cli import UserError
from launch.config import RunConfig
from launch.run.starting import start_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three checkpoints, the newest one damaged."""
    for step in (10, 20, 30):
        model = torch.nn.Linear(2, 2)
        state = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
        checkpoint.save(tmp_path / "run", step, state, keep=3)  # type: ignore[arg-type]
    with (tmp_path / "run" / "checkpoints" / "step-000000030" / "model.pt").open("ab") as file:
        file.write(b"x")
    return tmp_path / "run"


def test_list_and_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--list"]) == 0
    assert "1 ranks: model.pt, optimizer.pt" in capsys.readouterr().out
    assert main([str(folder), "--verify"]) == 1
    newest, *older = capsys.readouterr().out.splitlines()
    assert newest.startswith("       30  model.pt is truncated or overgrown")
    assert all("ranks" in line for line in older)


def test_export_takes_the_newest_whole_one(folder: Path, tmp_path: Path) -> None:
    assert main([str(folder), "--export", str(tmp_path / "out")]) == 0
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {"weight", "bias"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    with pytest.raises(UserError, match="isn't empty"):
        main([str(folder), "--export", str(tmp_path / "out")])
    with pytest.raises(UserError, match="no such checkpoint is valid"):
        main([str(folder), "--export", str(tmp_path / "other"), "--step", "30"])
    with pytest.raises(UserError, match="choose one of 30, 20, 10"):
        main([str(folder), "--export", str(tmp_path / "other"), "--step", "5"])


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoints"):
        main([str(tmp_path), "--list"])


def test_retention_spares_the_newest_the_regular_and_the_best(tmp_path: Path) -> None:
    config = RunConfig(folder=str(tmp_path), trackers=[], keep=2, keep_every=30, keep_best="eval/lpips:min")
    with start_run(config, config) as run:
        for step, value in ((10, 0.5), (20, 0.1), (30, 0.4), (40, 0.3), (50, 0.2), (60, 0.6)):
            run.log(step, {"eval/lpips": value})
            checkpoint.save(run.folder, step, {"model": torch.nn.Linear(2, 2)}, run, keep=config.keep)
    assert folders.steps(tmp_path) == [60, 50, 30, 20]
    assert to_delete(tmp_path, [60, 50, 30, 20], 1, None) == [50, 30, 20]


def test_a_best_without_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="end it with :min or :max"):
        RunConfig(folder="x", keep_best="eval/lpips")
