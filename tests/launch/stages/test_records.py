"""The record of a stage's attempts: what ends it, what is requeued, what is given up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.command.cli import UserError
from launch.stages import records
from launch.stages.records import begin, end, read


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")


def save(out: Path, step: int) -> None:
    (out / "tokenizer-run" / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("code", "verdict", "state"),
    [(0, "done", "done"), (85, "requeue", "waiting"), (2, "fail", "failed"), (86, "requeue", "waiting")],
)
def test_what_an_exit_code_means(tmp_path: Path, code: int, verdict: str, state: str) -> None:
    begin(tmp_path, "tokenizer")
    assert read(tmp_path, "tokenizer")["state"] == "running"
    assert end(tmp_path, "tokenizer", code) == verdict
    assert read(tmp_path, "tokenizer")["state"] == state


def test_attempts_without_a_newer_checkpoint_are_given_up(tmp_path: Path) -> None:
    for step in (10, 20):  # progress each time: never given up
        begin(tmp_path, "tokenizer", most_idle=2)
        save(tmp_path, step)
        end(tmp_path, "tokenizer", 85)
    for _ in range(2):
        begin(tmp_path, "tokenizer", most_idle=2)
        end(tmp_path, "tokenizer", 1)
    with pytest.raises(UserError, match="given up: 2 attempts in a row brought no newer checkpoint"):
        begin(tmp_path, "tokenizer", most_idle=2)
    assert read(tmp_path, "tokenizer")["state"] == "failed"


def test_a_new_submission_counts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, "tokenizer", most_idle=1)
    end(tmp_path, "tokenizer", 1)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    begin(tmp_path, "tokenizer", most_idle=1)


def test_an_attempt_that_went_with_its_node_is_counted(tmp_path: Path) -> None:
    begin(tmp_path, "tokenizer", most_idle=1)
    with pytest.raises(UserError, match="gone without a word"):
        begin(tmp_path, "tokenizer", most_idle=1)


def test_parts_have_records_of_their_own(tmp_path: Path) -> None:
    begin(tmp_path, "codes-train", 3)
    end(tmp_path, "codes-train", 0, 3)
    assert read(tmp_path, "codes-train", 3)["done"] is True
    assert read(tmp_path, "codes-train")["state"] == "waiting"


def test_the_command_prints_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--out", str(tmp_path), "--stage", "prior"]
    assert records.main(["begin", *common]) == 0
    assert records.main(["end", *common, "--code", "85", "--why", "time is up"]) == 0
    assert capsys.readouterr().out == "requeue\n"
    assert json.loads((tmp_path / "stages" / "prior.json").read_text())["reason"] == "time is up"


def test_records_of_the_quickstart_before_they_had_attempts(tmp_path: Path) -> None:
    place = records.path(tmp_path, "release")
    place.parent.mkdir()
    place.write_text(json.dumps({"key": "k", "done": True, "seconds": 5.7, "date": "then", "command": ["-m", "x"]}))
    assert read(tmp_path, "release") | {"state": "done", "attempts": [], "key": "k"} == read(tmp_path, "release")
    place.write_text(json.dumps({"key": "k", "done": False, "seconds": 5.7, "date": "then", "command": []}))
    assert read(tmp_path, "release")["state"] == "waiting"
    begin(tmp_path, "release", key="k", command=["-m", "x"])
    end(tmp_path, "release", 0)
    after = read(tmp_path, "release")
    assert (after["state"], after["done"], after["key"], after["command"]) == ("done", True, "k", ["-m", "x"])
    assert 5.7 <= after["seconds"] < 6 and len(after["attempts"]) == 1


def test_nobody_knows_how_long_a_lost_attempt_took(tmp_path: Path) -> None:
    begin(tmp_path, "tokenizer")
    state = read(tmp_path, "tokenizer")
    state["attempts"][0]["began"] -= 1000
    records.path(tmp_path, "tokenizer").write_text(json.dumps(state))
    begin(tmp_path, "tokenizer")
    end(tmp_path, "tokenizer", 0)
    assert read(tmp_path, "tokenizer")["seconds"] < 500
