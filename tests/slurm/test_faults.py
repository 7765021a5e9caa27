"""What goes wrong on clusters, on a local one: dead and hung ranks, losses that aren't numbers, damage, other sizes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.checkpoints import folders
from launch.run import metrics
from launch.stages import records as attempts
from tests.slurm.cluster import Cluster, missing
from tests.slurm.jobs import Toy, until
from tests.slurm.test_jobs import all_samples

pytestmark = [pytest.mark.slurm, pytest.mark.slow_slurm, pytest.mark.xdist_group("slurm")]

WATCHDOG = 20
SLOW = ("--step_seconds", "0.05", "--run.save_every", "10", "--run.log_every", "5", "--run.watchdog", str(WATCHDOG))


def started(toy: Toy, steps: int = 12) -> None:
    until(300, lambda: toy.steps_done() >= steps or toy.over(), f"{steps} steps")


def test_a_killed_rank_ends_the_others_within_30_seconds_and_the_job_goes_on(toy: Toy) -> None:
    toy.submit("--steps", "60", *SLOW)
    started(toy)
    ranks = toy.processes()
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    seconds = until(120, lambda: not any(rank.is_running() for rank in ranks), "the other rank's end")
    print(f"MEASURED killed rank: the other was gone after {seconds:.1f} s")
    assert seconds < 30
    assert toy.wait(600) == "COMPLETED"
    assert toy.orders() == all_samples(60)


@pytest.mark.parametrize("how", ["stop", "hang"])
def test_a_hung_rank_ends_the_job_after_the_watchdogs_time(toy: Toy, how: str) -> None:
    toy.submit("--steps", "60", *SLOW, "--trouble", how, "--trouble_at", "15", VQLOOM_MOST_IDLE="1")
    started(toy)
    ranks = toy.processes()
    seconds = until(WATCHDOG + 60, lambda: not any(rank.is_running() for rank in ranks), "the end of all ranks")
    print(f"MEASURED hung rank ({how}): all were gone {seconds:.1f} s after its step, watchdog {WATCHDOG} s")
    assert seconds < WATCHDOG + 30
    until(120, lambda: toy.state != "RUNNING", "end of the job")
    assert "hung for" in toy.text()
    assert "in stopping" in toy.text() or "in backward" in toy.text()
    if how == "hang":
        assert "in cause" in toy.text(), "the stack of the rank that hangs"


def test_a_preempted_job_saves_gives_way_and_goes_on(toy: Toy) -> None:
    toy.submit("--steps", "60", *SLOW)
    started(toy)
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=srun sleep 3"]
    toy.cluster.call("sbatch", *urgent)
    until(240, lambda: toy.state != "RUNNING", "the end of the preempted job")
    first = attempts.read(toy.out, "tokenizer")["attempts"][0]
    assert (first["code"], first["to"]) == (85, folders.steps(toy.folder)[0])
    assert toy.wait(600) == "COMPLETED"
    assert f"from step {first['to']}" in toy.text()
    assert toy.orders() == all_samples(60)


def test_a_loss_that_is_no_number_ends_the_job_and_saves_nothing_of_it(toy: Toy) -> None:
    toy.submit("--steps", "60", *SLOW, "--trouble", "nan", "--trouble_at", "27", VQLOOM_MOST_IDLE="2")
    assert toy.wait(900) == "FAILED"
    assert "a loss is not finite" in toy.text()
    assert folders.steps(toy.folder)[0] == 20
    state = attempts.read(toy.out, "tokenizer")
    assert "2 attempts in a row brought no newer checkpoint" in state["reason"]
    assert len(state["attempts"]) == 3, "one with progress, two without"


def test_a_second_job_on_the_run_folder_is_refused_and_a_dead_owner_is_not(toy: Toy) -> None:
    toy.submit("--steps", "1000", *SLOW, nodes=1)
    started(toy)
    second = Toy(toy.cluster, toy.out)
    second.log = toy.log.with_name("second.log")
    second.submit("--steps", "1000", *SLOW, nodes=1)
    assert second.wait(900) == "FAILED"
    assert "is in use by process" in second.text()
    os.kill(toy.processes()[0].pid, signal.SIGKILL)
    until(120, lambda: toy.state != "RUNNING", "end of the killed one")
    assert toy.wait(600) == "COMPLETED"
    assert toy.orders() == all_samples(1000)


def test_two_nodes_then_one_then_two(toy: Toy, cluster: Cluster, tmp_path: Path) -> None:
    options = ("--steps", "90", "--dropout", "0", *SLOW, "--run.log_every", "1")  # each step's loss, no means of parts
    calm = Toy(cluster, tmp_path / "calm").submit(*options)
    assert calm.wait(600) == "COMPLETED"
    toy.submit(*options)
    for goal, nodes in ((20, 1), (50, 2)):
        started(toy, goal)
        cluster.call("scancel", "--batch", "--signal=USR1", toy.job)
        until(120, lambda: toy.state == "PENDING", "requeue")
        cluster.call("scontrol", "update", f"jobid={toy.job}", f"NumNodes={nodes}-{nodes}", f"NumTasks={nodes}")
        until(240, lambda: toy.state == "RUNNING", "restart")
    assert toy.wait(600) == "COMPLETED"
    assert "1 ranks, from step" in toy.text()
    assert toy.orders() == all_samples(90) == calm.orders()
    expected, found = (
        [line["loss/square"] for line in metrics.read(one.folder / metrics.FILE) if line["kind"] == "train"]
        for one in (calm, toy)
    )
    worst = max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))
    print(f"MEASURED 2 → 1 → 2 nodes: largest relative difference of a logged loss {worst:.2e}")
    assert worst < 1e-4


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "bit-flipped", "missing"])
def test_a_damaged_newest_checkpoint_is_passed_over(toy: Toy, damage: Callable[[Path], None]) -> None:
    toy.submit("--steps", "60", *SLOW, nodes=1)
    started(toy, 25)
    toy.cluster.call("scancel", "--batch", "--signal=USR1", toy.job)
    until(120, lambda: toy.state == "PENDING", "requeue")
    newest, older = folders.steps(toy.folder)[:2]
    damage(toy.folder / folders.FOLDER / f"{folders.PREFIX}{newest:09d}" / "model.pt")
    assert toy.wait(600) == "COMPLETED"
    assert f"step-{newest:09d} is skipped: model.pt is" in toy.text()
    assert f"from step {older}" in toy.text()
    assert toy.orders() == all_samples(60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes, mounted before a cluster of its own starts: nodes don't see later mounts."""
    if reason := missing():
        pytest.skip(reason)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_full_disk_leaves_the_old_checkpoints(small_disk: Path, tmp_path: Path, choice: str) -> None:
    """Another file takes what is left of the run's disk after a while."""
    with Cluster(tmp_path / "cluster") as cluster:
        toy = Toy(cluster, tmp_path / "toy")
        toy.out.mkdir()
        toy.folder.symlink_to(small_disk)
        toy.submit("--steps", "60", *SLOW, "--run.on_save_error", choice, nodes=1)
        until(120, lambda: folders.steps(toy.folder) or toy.over(), "a checkpoint")
        fill(small_disk / "something else")
        state = toy.wait(600)
        print(toy.text())
    assert "can't be written (No space left on device)" in toy.text()
    assert all(folders.verify(path) is None for path in (small_disk / folders.FOLDER).glob("step-*"))
    assert folders.steps(toy.folder)[0] < 60
    assert state == ("FAILED" if choice == "stop" else "COMPLETED")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
