"""The status of chains and runs, from files alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from launch.command.cli import UserError
from launch.stages import records as attempts
from launch.stages import status


def run_folder(folder: Path, steps: int, gap: float = 2.0, age: float = 0.0) -> None:
    """A training of 100 steps that logged every fifth step, and lost a minute to an interruption."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("steps: 100\n")
    (folder / "run.json").write_text(json.dumps({"starts": [{}, {}]}))
    now = time.time() - age
    lines = []
    for step in range(4, steps, 5):
        lost = 60 if step < 30 else 0
        told = {
            "step": step,
            "time": now - (steps - step) / 5 * gap - lost,
            "kind": "train",
            "loss/rec": 1 / (step + 1),
        }
        lines.append(json.dumps(told))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def rows(out: Path) -> dict[str, tuple[str, ...]]:
    return {line[0]: line for line in status.table(out)[1:]}


def test_a_training_tells_step_rate_time_left_and_loss(tmp_path: Path) -> None:
    run_folder(tmp_path / "tokenizer-run", 50)
    attempts.begin(tmp_path, "tokenizer")
    attempts.end(tmp_path, "tokenizer", 85)
    attempts.begin(tmp_path, "tokenizer")
    assert rows(tmp_path)["tokenizer"] == ("tokenizer", "running", "50/100", "2.5/s", "20s", "rec 0.02", "1", "")
    assert rows(tmp_path)["prior"][1] == "waiting"


def test_the_gap_of_an_interruption_is_no_part_of_the_rate(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", 40)
    found = status.training(tmp_path / "run")
    assert found is not None
    assert found.per_second == pytest.approx(2.5)


def test_a_silent_run_and_a_failed_stage_are_told(tmp_path: Path) -> None:
    run_folder(tmp_path / "tokenizer-run", 50, age=3600)
    attempts.begin(tmp_path, "tokenizer")
    attempts.begin(tmp_path, "release")
    attempts.end(tmp_path, "release", 2)
    assert rows(tmp_path)["tokenizer"][-1] == "silent for 1h00m"
    assert rows(tmp_path)["release"][1] == "failed"
    assert rows(tmp_path)["release"][-1] == "refused its input"


def test_a_single_run_folder(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", 100)
    (line,) = rows(tmp_path / "run").values()
    assert line[1:3] == ("done", "100/100")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run's folder nor a chain's"):
        status.table(tmp_path)


@pytest.mark.parametrize(("seconds", "text"), [(35, "35s"), (720, "12m"), (11100, "3h05m"), (187200, "2d04h")])
def test_spans(seconds: float, text: str) -> None:
    assert status.span(seconds) == text
