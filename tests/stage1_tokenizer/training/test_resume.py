"""A training run that is killed or stopped anywhere and started again ends with the very bits of one that wasn't."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from launch.checkpoints import folders, store
from launch.command.cli import parse
from launch.command.exit_codes import INTERRUPTED, STOPPED
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.train import train
from stage1_tokenizer.training import loop
from tests import forked
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny

MODULE = "stage1_tokenizer.train"
STEPS = 40
CHANGES: dict[str, Any] = {"steps": STEPS, "run__save_every": 7, "evaluate_every": 15}
CHANGES |= {"data__index": tiny.ROOT / tiny.TRAIN, "data__held_out": tiny.ROOT / tiny.HELD_OUT}


def final_state(folder: Path, steps: int) -> dict[str, Any]:
    """Everything in the last checkpoint."""
    assert folders.steps(folder)[0] == steps
    place = folder / folders.FOLDER / f"{folders.PREFIX}{steps:09d}"
    return {path.stem: torch.load(path, weights_only=True) for path in sorted(place.glob("*.pt"))}


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one dictionary of leaves."""
    if isinstance(value, dict):
        return {key: leaf for part in value for key, leaf in flat(value[part], f"{name}/{part}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), name)
    return {name: value}


def assert_same_bits(folder: Path, reference: Path, steps: int = STEPS) -> None:
    mine, other = flat(final_state(folder, steps)), flat(final_state(reference, steps))
    assert list(mine) == list(other)
    for name, value in mine.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype
            # Compared as bytes: NaN equals NaN and 0.0 is not -0.0.
            assert value.numpy().tobytes() == other[name].numpy().tobytes(), name
        else:
            assert value == other[name], name


def steps_done(folder: Path) -> int:
    """The newest training step that metrics.jsonl tells of."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return max([line["step"] for line in whole if line["kind"] == "train"], default=-1)


def interrupt(folder: Path, processes: int, number: int, at: int) -> int:
    """Start the run, send a signal to all its processes as soon as step `at` is done; the launcher's exit code."""
    line = tiny.command(MODULE, tiny.arguments(folder, **CHANGES), processes)
    started = forked.Command(line, env=tiny.environment(), session=True)
    try:
        deadline = time.monotonic() + 300
        while steps_done(folder) < at:
            assert started.poll() is None, f"it ended by itself ({started.returncode}) before step {at}"
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.005)
        if number == signal.SIGKILL:
            kill_all(started)
        else:
            started.send_signal(number)
        return started.wait(timeout=300)
    finally:
        kill_all(started)
        started.wait()


def kill_all(started: forked.Command) -> None:
    """Kill a launcher and its ranks, which are in sessions of their own and would otherwise train on."""
    if started.poll() is None:
        launcher = psutil.Process(started.pid)
        launcher.suspend()  # so that it neither reacts to the first one's end nor starts another
        family = [*launcher.children(recursive=True), launcher]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=60)


def on_a_rank(folder: Path) -> int:
    return train(parse(TokenizerTrainConfig, tiny.arguments(folder, **CHANGES), prog="test"))


def finish(folder: Path, processes: int) -> str:
    """Let the run go on to its end; what it said. Two ranks need no launcher for that."""
    said = ""
    if processes == 1:
        done = tiny.call(MODULE, tiny.arguments(folder, **CHANGES))
        said = done.stderr
        assert done.returncode == 0, said
    else:
        assert run_distributed_test(on_a_rank, processes, [folder]) == [0] * processes
    assert folders.steps(folder)[0] == STEPS
    return said


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"whole{processes}") / "run"
        finish(folders[processes], processes)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "number", "code"),
    [(1, signal.SIGTERM, STOPPED), (1, signal.SIGINT, INTERRUPTED), (2, signal.SIGTERM, STOPPED)],
)
def test_killed_and_stopped_anywhere_it_ends_with_the_same_bits(
    uninterrupted: dict[int, Path], tmp_path: Path, processes: int, number: int, code: int
):
    """Ctrl-C with two ranks is in tests/launch/ranks/test_launcher.py."""
    draw = random.SystemRandom().randrange
    killed = draw(STEPS - 25)
    interrupt(tmp_path / "run", processes, signal.SIGKILL, killed)
    reached = steps_done(tmp_path / "run")
    assert reached < STEPS - 13, "it was nearly finished before the kill"
    stopped = draw(reached + 1, STEPS - 12)
    print(f"killed at step {killed}, stopped at step {stopped}")
    assert interrupt(tmp_path / "run", processes, number, stopped) == code
    assert stopped < folders.steps(tmp_path / "run")[0] < STEPS
    finish(tmp_path / "run", processes)
    assert_same_bits(tmp_path / "run", uninterrupted[processes])
    if processes == 1:
        before = (tmp_path / "run" / "metrics.jsonl").read_text()
        assert "is finished" in finish(tmp_path / "run", processes)
        assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_the_metrics_of_a_whole_run(uninterrupted: dict[int, Path]):
    from launch.run.metrics import read

    for folder in uninterrupted.values():
        lines = read(folder / "metrics.jsonl")
        assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(STEPS))
        evaluations = [line for line in lines if line["kind"] == "eval"]
        assert [line["step"] for line in evaluations] == [15, 30, 40]
        assert all(line["eval/samples"] == 20 for line in evaluations)
        assert {"loss/rec", "loss/commitment", "codes/used", "rate/pictures_per_second"} <= set(lines[0])
        assert "loss/adversarial" not in lines[1] and "loss/adversarial" in lines[2]
        assert (folder / "pictures" / "step-000000040.png").is_file()


class Signals:
    """Sends this process a signal during a step (-1: before the first one)."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, at: int):
        self.step, self.load, self.number, self.at = loop.train_step, store.load_latest, number, at
        patch.setattr(loop, "train_step", self.train_step)
        patch.setattr(store, "load_latest", self.load_latest)

    def train_step(self, *args: Any) -> Any:
        if args[3] == self.at:
            os.kill(os.getpid(), self.number)
        return self.step(*args)

    def load_latest(self, *args: Any) -> Any:
        if self.at < 0:
            os.kill(os.getpid(), self.number)
        return self.load(*args)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("at", "finished", "said"),
    [
        (-1, False, "stopped at step 0, before its first step, there was nothing to save; rerun"),
        (3, False, "stopped at step 4, with a checkpoint; rerun the same command to resume"),
        (7, True, ""),
    ],
)
def test_what_is_said_and_returned_at_a_signal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    at: int,
    finished: bool,
    said: str,
):
    config = parse(TokenizerTrainConfig, tiny.arguments(tmp_path, data__index=tiny.ROOT / tiny.TRAIN,
                   data__held_out="null", run__save_every=50), prog="test")  # fmt: skip
    with monkeypatch.context() as patch:
        Signals(patch, number, at)
        code = train(config)
    assert code == (0 if finished else {signal.SIGTERM: STOPPED, signal.SIGINT: INTERRUPTED}[number])
    told = capsys.readouterr().err
    assert said in told
    assert ("with a checkpoint" in told, "stopped" in told) == (at == 3, not finished)
    assert folders.steps(tmp_path) == ([] if at < 0 else [at + 1])
