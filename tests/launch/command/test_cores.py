"""Threads follow the cores that the process may really use, and wait without taking them from others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.command import cores as command_cores
from launch.command.cores import cores, share
from launch.ranks.launcher import threads

V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/pod/box\n0::/\n"}
OUTER, INNER = "sys/fs/cgroup/cpu,cpuacct/pod", "sys/fs/cgroup/cpu,cpuacct/pod/box"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        (V2, 64),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "400000 100000\n"}, 4),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "max 100000\n", "sys/fs/cgroup/pod/cpu.max": "250000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),  # in a container, whose own group is the root
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "50000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "9900000 100000\n"}, 64),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "nonsense"}, 64),
        ({"proc/self/cgroup": "0::/../../else\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (V1 | {f"{INNER}/cpu.cfs_quota_us": "-1\n", f"{INNER}/cpu.cfs_period_us": "100000\n"}, 64),
        (V1 | {f"{INNER}/cpu.cfs_quota_us": "750000\n", f"{INNER}/cpu.cfs_period_us": "250000\n"}, 3),
        (V1 | {f"{OUTER}/cpu.cfs_quota_us": "200000\n", f"{OUTER}/cpu.cfs_period_us": "100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "1:cpu:/docker/123\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "500000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            5,
        ),
    ],
)
def test_cores_are_those_of_the_mask_and_of_the_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert cores(tmp_path) == 1


def test_ranks_on_one_machine_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_cores, "cores", lambda: 12)
    monkeypatch.setattr("launch.ranks.launcher.cores", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (share(), share(most=8), threads(1), threads(5), threads(99)) == (12, 8, 12, 2, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert share() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "99")
    assert share() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads(5) == 7


LOOK = (
    "from launch.command import cli, cores\n"
    "cores.cores = lambda: {}\n"
    "def main():\n    import torch\n    print(torch.get_num_threads())\ncli.run(main)"
)


def started(limit: str = "cores._masked()", **said: str) -> tuple[dict[str, str], int]:
    """What libgomp has read in a command that imports torch, and torch's number of threads."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))
    }
    line = [sys.executable, "-c", LOOK.format(limit)]
    environ = {**clean, "OMP_DISPLAY_ENV": "verbose", **said}
    done = subprocess.run(line, env=environ, capture_output=True, text=True, check=True)
    pairs = (line.split(" = ") for line in done.stderr.splitlines() if " = " in line)
    return {name.strip(): value.strip("' ") for name, value in pairs}, int(done.stdout)


def test_threads_wait_asleep_beside_others_unless_the_user_says_otherwise() -> None:
    if command_cores._masked() == 1:
        pytest.skip("threads that wait need two cores")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(command_cores._masked())]
    try:
        said, number = started()
        assert said["OMP_WAIT_POLICY"] == "PASSIVE"
        said, others = started(OMP_WAIT_POLICY="active")
        assert (said["OMP_WAIT_POLICY"], others) == ("ACTIVE", number), "the number of threads is torch's own"
        said, _ = started(GOMP_SPINCOUNT="77")
        assert said["GOMP_SPINCOUNT"] == "77"
    finally:
        for one in busy:
            one.kill()


@pytest.mark.parametrize(("idle", "expected"), [(2.0, False), (1.6, False), (1.0, True), (0.0, True)])
def test_cores_are_contested_where_others_use_half_a_core(
    monkeypatch: pytest.MonkeyPatch, idle: float, expected: bool
) -> None:
    """Of two cores that are watched for a second."""
    clock, seen = iter([5.0, 6.0]), iter([100.0, 100.0 + idle])
    monkeypatch.setattr(command_cores.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(command_cores.time, "sleep", lambda _: None)
    monkeypatch.setattr(command_cores, "_idle_seconds", lambda: next(seen))
    monkeypatch.setattr(command_cores, "_masked", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert command_cores.contested() == expected


def test_ranks_do_not_take_each_other_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(command_cores, "_idle_seconds", lambda: 0.0)
    assert not command_cores.contested()


def test_a_limited_process_starts_no_more_threads_than_it_has_cores() -> None:
    assert started("1")[1] == 1
    assert started("1", OMP_NUM_THREADS="2")[1] == started(OMP_NUM_THREADS="2")[1]
