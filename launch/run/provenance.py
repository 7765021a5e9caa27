"""What a run's results depend on besides its configuration: commit, versions, hardware, command, date."""

from __future__ import annotations

import contextlib
import datetime
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from launch.command.cores import cores

PACKAGES = ("torch", "accelerate", "transformers", "webdataset", "numpy", "lpips", "torch-fidelity", "deepspeed")
"""The packages whose versions are kept with every run."""


def commit(folder: Path | None = None) -> str | None:
    """The git commit of the code, with `+changes` where tracked files differ from it; None outside a repository."""
    where = folder or Path(__file__).resolve().parent
    head = _git(where, "rev-parse", "HEAD")
    if head is None:
        return None
    return f"{head}+changes" if _git(where, "status", "--porcelain", "--untracked-files=no") else head


def _git(where: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """One line: the GPUs with their count, or the processor with the number of cores this process may use."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{cores()} CPU cores, {_processor()}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name") and (name := line.partition(":")[2].strip()) not in ("", "unknown"):
                return name
    return platform.machine()


def now() -> str:
    """The date and time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def facts() -> dict[str, Any]:
    """Everything above as one dictionary, ready for JSON."""
    return {
        "date": now(),
        "commit": commit(),
        "argv": list(sys.argv),
        "hardware": hardware(),
        "host": platform.node(),
        "versions": versions(),
    }
