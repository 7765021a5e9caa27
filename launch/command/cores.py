"""The cores that this process may really use, and how its threads wait for each other. Needs no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CONTROL_GROUPS = "sys/fs/cgroup"

WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}
"""How the threads of OpenMP wait, unless the user says otherwise by either: asleep, after a tenth of a millisecond.

libgomp spins for 3 ms where nothing is said. A thread that spins while the one it waits for has lost its core to
another process takes that one's time; one that sleeps at once is woken too late between the short parts of a step, even
on an idle machine (tests/benchmarks/busy_machine.py).
"""


def cores(system: Path = Path("/")) -> int:
    """Cores that this process may use: those of its affinity mask, but no more than its control groups give it time of.

    In a container, a SLURM job or under taskset these are fewer than the host's. `system` is the root of the files that
    tell.
    """
    return max(1, min([_masked(), *(int(quota) for quota in _quotas(system))]))


def settle() -> None:
    """Say how the threads of OpenMP wait and how many there are, unless the user did. Before torch is imported.

    OpenMP counts the affinity mask by itself, but not what the control groups allow.
    """
    if not WAITING.keys() & os.environ.keys():
        os.environ |= WAITING
    if "OMP_NUM_THREADS" not in os.environ and (number := cores()) < _masked():
        os.environ["OMP_NUM_THREADS"] = str(number)


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
