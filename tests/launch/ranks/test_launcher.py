"""The launcher: ranks that belong together, plain endings, and refusals of starts that only look right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from launch.checkpoints import folders
from launch.command.exit_codes import INTERRUPTED, STOPPED
from launch.ranks.launcher import CONFIGS, launch_arguments
from launch.run import metrics
from tests import forked

JOB = "tests.launch.job"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "MASTER_"))},
    "ACCELERATE_USE_CPU": "true",
}


def launch(folder: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "launch.local", "--processes", str(processes), JOB]
    return run([*line, "--run.folder", str(folder), "--run.trackers", "[]", *arguments])


def run(line: list[str]) -> subprocess.CompletedProcess[str]:
    """The launcher is forked, to save its imports; its ranks aren't."""
    return forked.call(line, timeout=120, env=ENVIRONMENT)


def test_two_processes_are_two_ranks(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "--steps", "50", "--run.processes", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "2 ranks, sum 2.0, from step 0\n"
    (line,) = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert (line["step"], line["kind"], line["ranks"], line["rank"]) == (49, "train", 2.0, 0.5)
    assert line["rate/pictures_per_second"] > 0


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for processes in (1, 2):
        done = launch(tmp_path / "run", "--mistake", "true", processes=processes)
        assert (done.returncode, done.stderr) == (2, "error: mistake=True is not wanted: leave it away\n")


def test_an_unknown_key_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "--run.sede", "1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "sede" in done.stderr


def test_one_failing_rank_ends_all_with_its_reason(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "--fail_rank", "1")
    assert done.returncode == 1
    assert "rank 1 failed" in done.stderr
    assert "RuntimeError: the paper jam" in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_a_killed_rank_ends_all(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "--kill_rank", "1")
    assert done.returncode in (1, 128 + 9)
    assert "rank 0 ends because another rank is gone" in done.stderr or done.returncode == 128 + 9


@pytest.mark.parametrize("launcher", ["false", "true"])
def test_a_signal_stops_all_ranks_with_a_checkpoint_and_its_exit_code(tmp_path: Path, launcher: str) -> None:
    done = launch(tmp_path / "run", "--signal_rank", "1", "--launcher", launcher)
    assert done.returncode == STOPPED, done.stderr
    again = launch(tmp_path / "run", "--steps", "30", "--signal_rank", "-1", "--launcher", launcher)
    assert again.returncode == 0, again.stderr
    assert "from step" in again.stderr
    assert "from step 0" not in again.stderr


def started_by(folder: Path, *arguments: str, processes: int = 2) -> list[str]:
    line = [sys.executable, "-m", "launch.local", "--processes", str(processes), JOB, "--run.folder", str(folder)]
    return [*line, "--run.trackers", "[]", "--run.log_every", "1", *arguments]


def start(folder: Path, *arguments: str, processes: int = 2) -> forked.Command:
    return forked.Command(started_by(folder, *arguments, processes=processes), env=ENVIRONMENT, session=True)


def alone(folder: Path, steps: int) -> subprocess.CompletedProcess[str]:
    """The job's steps up to some, without a launcher."""
    words = ["--run.folder", str(folder), "--run.trackers", "[]", "--steps", str(steps)]
    return run([sys.executable, "-m", JOB, *words])


def until(started: forked.Command, sign: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not sign():
        assert started.poll() is None and time.monotonic() < deadline, "no sign of it"
        time.sleep(0.01)


def press(started: forked.Command | subprocess.Popen[str], *, terminal: bool = True) -> None:
    """Ctrl-C as a terminal sends it, to the whole foreground group, or `kill -INT` of the launcher alone."""
    if terminal:
        os.killpg(started.pid, signal.SIGINT)
    else:
        started.send_signal(signal.SIGINT)


def at_work(folder: Path) -> bool:
    return len(metrics.read(folder / metrics.FILE)) > 2


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_saves_and_stops_all_ranks(tmp_path: Path, processes: int, terminal: bool) -> None:
    started = start(tmp_path / "run", processes=processes)
    until(started, lambda: at_work(tmp_path / "run"))
    press(started, terminal=terminal)
    _, told = started.communicate(timeout=60)
    assert started.returncode == INTERRUPTED, told
    (saved,) = folders.steps(tmp_path / "run")
    assert told.count("Ctrl-C: the run saves and stops after this step; press it again to end at once") == 1
    assert told.endswith(f"stopped at step {saved}, with a checkpoint; rerun the same command to resume\n")
    assert "Traceback" not in told
    again = alone(tmp_path / "run", saved + 3)
    assert (again.returncode, f"from step {saved}\n" in again.stderr) == (0, True), again.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_ctrl_c_while_saving_ends_at_once_and_leaves_the_checkpoint_before(
    tmp_path: Path, processes: int
) -> None:
    assert alone(tmp_path / "run", 3).returncode == 0
    started = start(tmp_path / "run", "--slow", "200", processes=processes)
    until(started, lambda: at_work(tmp_path / "run"))
    ranks = psutil.Process(started.pid).children(recursive=True)
    press(started)
    until(started, lambda: any((tmp_path / "run" / "checkpoints").glob(".*.part")))
    pressed = time.monotonic()
    press(started)
    started.communicate(timeout=60)
    assert started.returncode == INTERRUPTED
    assert time.monotonic() - pressed < 5
    assert not psutil.wait_procs(ranks, timeout=5)[1]
    assert folders.steps(tmp_path / "run") == [3]
    assert folders.verify(folders.place(tmp_path / "run", 3)) is None


def test_ctrl_c_before_there_are_ranks_is_one_line(tmp_path: Path) -> None:
    """A launcher that isn't forked, for it must still import torch."""
    line = started_by(tmp_path / "run")
    options: Any = {"env": ENVIRONMENT, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(line, **options) as started:
        time.sleep(1.0)
        press(started)
        _, told = started.communicate(timeout=60)
    assert started.returncode == INTERRUPTED, told
    assert told.splitlines()[-1] in ("interrupted by Ctrl-C",) or "nothing to save" in told


def test_ctrl_c_of_a_run_that_is_finished_meanwhile_is_no_interruption(tmp_path: Path) -> None:
    started = start(tmp_path / "run", "--steps", "3", "--slow", "2", processes=1)
    until(started, lambda: any((tmp_path / "run" / "checkpoints").glob(".*.part")))
    press(started)
    _, told = started.communicate(timeout=60)
    assert (started.returncode, folders.steps(tmp_path / "run")) == (0, [3]), told


def test_another_number_of_ranks_than_asked_is_refused(tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "--run.processes", "3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: run.processes=3 but the launcher started 2: start with")
    assert done.stderr.count("\n") == 1


def test_a_silently_undistributed_launch_is_refused(tmp_path: Path) -> None:
    bare = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    done = run([*bare, "-m", JOB, "--run.folder", str(tmp_path / "run")])
    assert done.returncode != 0
    assert "error: several processes were requested of accelerate launch, but it started one" in done.stderr
    assert "python -m launch.local" in done.stderr


def test_plain_accelerate_launch_with_our_file_is_distributed(tmp_path: Path) -> None:
    options = ["--run.folder", str(tmp_path / "run"), "--run.trackers", "[]", "--steps", "2"]
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    done = run([*launcher, *launch_arguments(JOB, options, 2)])
    assert "2 ranks, sum 2.0" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["one", "cpu", "gpu"])
def test_accelerate_reads_its_files(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = CONFIGS / f"{name}.yaml"
    loaded = load_config_from_file(str(path))
    written = yaml.safe_load(path.read_text())
    assert loaded.distributed_type.value == written["distributed_type"]
    assert loaded.num_machines == 1
    assert loaded.use_cpu is False
