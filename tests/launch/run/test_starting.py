"""Runs: their folder, seeds and agreement. What needs a launcher is in test_local.py."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from launch.command.cli import UserError, parse
from launch.command.exit_codes import STOPPED
from launch.config import RunConfig
from launch.run.seeding import seed_step
from launch.run.starting import start_run
from tests.distributed import run_distributed_test


@dataclass(frozen=True)
class JobConfig:
    """A run with one setting of its own."""

    run: RunConfig
    """The run."""
    rate: float = 0.1
    """A setting that matters."""


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    return JobConfig(RunConfig(str(tmp_path / "run"), trackers=[], log_every=2))


def test_the_folder_tells_configuration_and_origin(config: JobConfig, tmp_path: Path) -> None:
    with start_run(config, config.run) as run:
        run.say("hello")
    assert parse(JobConfig, ["--config", str(run.folder / "config.yaml")], prog="test") == config
    origin = json.loads((run.folder / "run.json").read_text())
    assert {"commit", "argv", "hardware", "versions", "date", "world_size"} <= set(origin)
    assert len(origin["starts"]) == 1
    assert "hello" in (run.folder / "log.txt").read_text()


def test_another_configuration_is_refused_and_the_same_goes_on(config: JobConfig) -> None:
    with start_run(config, config.run):
        pass
    with (
        pytest.raises(UserError, match=r"rate=0\.2 differs from 0\.1"),
        start_run(dataclasses.replace(config, rate=0.2), config.run),
    ):
        pass
    free = dataclasses.replace(config.run, log_every=7)
    with start_run(dataclasses.replace(config, run=free), free) as run:
        pass
    assert len(json.loads((run.folder / "run.json").read_text())["starts"]) == 2
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["rate"] == 0.1


def test_a_folder_in_use_is_refused(config: JobConfig) -> None:
    with (
        start_run(config, config.run),
        pytest.raises(UserError, match=f"in use by process {os.getpid()}"),
        start_run(config, config.run),
    ):
        pass
    with start_run(config, config.run):
        pass


def test_recorded_scalars_are_logged_as_means(config: JobConfig) -> None:
    with start_run(config, config.run) as run:
        for step in range(5):
            run.record({"loss/rec": torch.tensor(float(step))}, step=step, samples=8)
        run.log(4, {"eval/psnr": 20.0})
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"]) for line in lines] == [(1, "train"), (3, "train"), (4, "eval")]
    assert [line["loss/rec"] for line in lines[:2]] == [0.5, 2.5]
    assert lines[0]["rate/pictures_per_second"] > 0


def test_trackers_get_the_metrics(config: JobConfig) -> None:
    settings = dataclasses.replace(config.run, trackers=["tensorboard"])
    with start_run(dataclasses.replace(config, run=settings), settings) as run:
        run.log(4, {"eval/psnr": 20.0})
    assert list(run.folder.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_asks_to_stop(config: JobConfig, number: signal.Signals) -> None:
    with start_run(config, config.run) as run:
        assert not run.stopping()
        os.kill(os.getpid(), number)
        assert run.stopping()
    assert run.exit_code == STOPPED


def test_seeds_are_a_function_of_seed_rank_and_step() -> None:
    def draws(*place: int) -> tuple[float, float, float]:
        seed_step(*place)
        return float(torch.rand(())), float(np.random.rand()), random.random()

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    drawn = [draws(*place) for place in places]
    assert drawn == [draws(*place) for place in places]
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == len(places)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("log_every", 0, "run.log_every=0"),
        ("trackers", ["mlflow"], "run.trackers=mlflow"),
        ("processes", 0, "1 or more"),
    ],
)
def test_bad_settings_name_key_value_and_way_out(setting: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunConfig("x", **{setting: value})  # type: ignore[arg-type]


def test_the_launchers_precision_must_not_contradict(config: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with (
        pytest.raises(UserError, match=r"run\.precision=fp32 but accelerate launch says"),
        start_run(config, config.run),
    ):
        pass


def agreement(folder: str) -> tuple[list[bool], int, float]:
    config = RunConfig(folder, trackers=[])
    with start_run(JobConfig(config), config) as run:
        seen = [run.stopping()]
        if run.rank == 1:
            run.request_stop()
        seen.append(run.stopping())
        seen.append(run.stopping())
        total = float(run.sum(torch.tensor(float(run.rank + 1))))
    return seen, run.exit_code, total


def test_ranks_agree_to_stop(tmp_path: Path) -> None:
    assert run_distributed_test(agreement, 2, [str(tmp_path / "run")]) == [([False, True, True], STOPPED, 3.0)] * 2


def refused(folder: str, rate: float) -> str:
    config = RunConfig(folder, trackers=[])
    try:
        with start_run(JobConfig(config, rate), config):
            return "started"
    except UserError as error:
        return str(error)


def test_all_ranks_hear_of_a_refusal(tmp_path: Path) -> None:
    assert run_distributed_test(refused, 2, [str(tmp_path / "run"), 0.1]) == ["started"] * 2
    answers = run_distributed_test(refused, 2, [str(tmp_path / "run"), 0.2])
    assert answers[0] == answers[1]
    assert "rate=0.2 differs" in answers[0]


def failing() -> None:
    if torch.distributed.get_rank() == 1:
        raise KeyError("rank one's own trouble")


def test_a_ranks_exception_comes_back_with_its_traceback() -> None:
    with pytest.raises(AssertionError, match=r"rank 1 failed:(.|\n)*Traceback(.|\n)*rank one's own trouble"):
        run_distributed_test(failing, 2)


def test_a_run_begun_before_a_setting_came_goes_on_at_its_default(tmp_path: Path) -> None:
    from launch.run import folder

    config = JobConfig(run=RunConfig(folder=str(tmp_path)))
    folder.adopt(tmp_path, config, ())
    saved = yaml.safe_load((tmp_path / folder.CONFIG).read_text())
    del saved["run"]["skip_limit"], saved["rate"]
    (tmp_path / folder.CONFIG).write_text(yaml.safe_dump(saved))
    folder.adopt(tmp_path, config, ())
    assert yaml.safe_load((tmp_path / folder.CONFIG).read_text())["run"]["skip_limit"] == config.run.skip_limit
    with pytest.raises(UserError, match=r"run\.seed=5 differs from 0"):
        folder.adopt(tmp_path, JobConfig(run=RunConfig(folder=str(tmp_path), seed=5)), ())


FINISHED = """
import time
from launch.command import cli
from launch.config import RunConfig
from launch.run.starting import start_run
from tests.launch.run.test_starting import JobConfig
def main():
    config = JobConfig(RunConfig(folder={folder!r}, trackers=[]))
    with start_run(config, config.run):
        pass
    print("ready", flush=True)
    time.sleep(1)
cli.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_a_run_that_is_finished_changes_nothing(tmp_path: Path, number: int) -> None:
    """As to a rank that has nothing left to do, while the launcher waits for another one that saves."""
    code = FINISHED.format(folder=str(tmp_path / "run"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, "interrupted" in told) == (0, False), told
