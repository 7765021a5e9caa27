"""The cores that this process may really use, and how its threads wait for each other. Needs no torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

CONTROL_GROUPS = "sys/fs/cgroup"

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What a user says of how the threads of OpenMP wait for each other.

libgomp lets them spin for 3 ms. Where another process has one of their cores, spinning takes time from the thread that
all wait for: asleep, they train a third faster. Where none has, threads that sleep are woken too late between the short
parts of a step: a third slower (tests/benchmarks/busy_machine.py).
"""
LOOKED = 0.1
"""Seconds for which the cores are watched before a command computes."""


def cores(system: Path = Path("/")) -> int:
    """Cores that this process may use: those of its affinity mask, but no more than its control groups give it time of.

    In a container, a SLURM job or under taskset these are fewer than the host's. `system` is the root of the files that
    tell.
    """
    return max(1, min([_masked(), *(int(quota) for quota in _quotas(system))]))


def settle() -> None:
    """Say how the threads of OpenMP wait and how many there are, unless the user did. Before torch is imported.

    They wait asleep where other processes use their cores; how they wait changes no result. OpenMP counts the affinity
    mask by itself, but not what the control groups allow.
    """
    if "OMP_NUM_THREADS" not in os.environ and (number := cores()) < _masked():
        os.environ["OMP_NUM_THREADS"] = str(number)
    alone = os.environ.get("OMP_NUM_THREADS", str(_masked())) == "1"
    if not alone and not any(name in os.environ for name in WAITING) and contested():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def contested() -> bool:
    """Whether other processes take half a core or more of this one's; False for one of several ranks.

    Those start together, and would take each other for others.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1 or not hasattr(os, "sched_getaffinity"):
        return False
    began, before = time.monotonic(), _idle_seconds()
    time.sleep(LOOKED)
    idle, seconds = _idle_seconds() - before, time.monotonic() - began
    return _masked() * seconds - idle > seconds / 2


def _idle_seconds() -> float:
    """Time that the cores of the affinity mask had nothing to do, since the machine started."""
    times = psutil.cpu_times(percpu=True)
    return sum(times[core].idle + times[core].iowait for core in os.sched_getaffinity(0) if core < len(times))


def share(most: int | None = None) -> int:
    """The cores for each rank on this machine, at least 1 and at most `most`."""
    own = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return own if most is None else min(own, most)


def _masked() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(system: Path) -> Iterator[float]:
    """Of each control group around this process that is limited: how many cores' time it may use."""
    mounted = system / CONTROL_GROUPS
    for line in _words(system / "proc/self/cgroup", "\n"):
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        with contextlib.suppress(ValueError, ZeroDivisionError):
            if not controllers:  # version 2
                found = [_words(folder / "cpu.max") for folder in _around(mounted, path)]
            elif "cpu" in controllers.split(","):
                places = [folder for name in (controllers, "cpu") for folder in _around(mounted / name, path)]
                found = [[*_words(f / "cpu.cfs_quota_us"), *_words(f / "cpu.cfs_period_us")] for f in places]
            else:
                found = []
            limited = [pair for pair in found if len(pair) == 2 and pair[0] not in ("max", "-1")]
            yield from (int(time) / int(period) for time, period in limited)


def _around(mounted: Path, path: str) -> Iterator[Path]:
    """The folders of a control group and of those around it; inside a container only the outermost may be there."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for count in range(len(parts) + 1):
        yield mounted.joinpath(*parts[:count])


def _words(file: Path, separator: str | None = None) -> list[str]:
    try:
        return file.read_text().strip().split(separator)
    except OSError:
        return []
