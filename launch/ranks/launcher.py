"""The right `accelerate launch` for a module on this machine, with its flags hidden."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "accelerate"
"""accelerate's configuration files: one.yaml (one process), cpu.yaml (gloo), gpu.yaml (NCCL)."""


def launch_arguments(module: str, arguments: Sequence[str], processes: int = 1) -> list[str]:
    """What follows `accelerate launch` so that `processes` ranks of a module really belong together.

    A file is always named, so that no default configuration of the user's home has a say.
    """
    import torch

    gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes")
    kind = "one" if processes == 1 else ("gpu" if gpu else "cpu")
    return [
        *("--config_file", str(CONFIGS / f"{kind}.yaml")),
        *("--num_processes", str(processes)),
        *("--num_cpu_threads_per_process", str(threads(processes))),
        *("-m", module),
        *arguments,
    ]


def threads(processes: int) -> int:
    """Threads for each of several processes on this machine: OMP_NUM_THREADS where it is set, else a fair share."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else max(1, cores() // processes)


def command(module: str, arguments: Sequence[str], processes: int = 1) -> list[str]:
    """The whole command line, for subprocess: `accelerate launch …` by this Python.

    A rank's exit code is lost in it (accelerate ends with 1 and a traceback); `launch.local` keeps it.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return [*launcher, *launch_arguments(module, arguments, processes)]


def cores() -> int:
    """Cores this process may run on (an affinity mask or a container's share counts)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
