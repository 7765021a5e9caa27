"""Starts several ranks on this machine by `accelerate launch`, with the flags that join them into one group."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from launch.command import interrupts
from launch.command.cli import ERRORS_FOLDER, INTERRUPTION, first_to_tell
from launch.command.cores import cores
from launch.command.exit_codes import BAD_INPUT, HUNG, INTERRUPTED, SIGNALLED, STOPPED

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


def supervise(flags: Sequence[str]) -> int:
    """Run `accelerate launch FLAGS…` in this process and wait; the exit code that says how it ended.

    0, BAD_INPUT, STOPPED, INTERRUPTED or HUNG where a rank ended with it, else 1 (and 128 + signal for a rank that a
    signal killed).
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in ("torch.distributed.elastic", "torch.distributed.run", "accelerate.commands.launch"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _forward_signals()
    options = launch_command_parser().parse_args(list(flags))
    options.signals_to_handle = "SIGHUP,SIGQUIT"  # torchrun's own option: the others are forwarded
    with tempfile.TemporaryDirectory() as errors:
        os.environ.setdefault(ERRORS_FOLDER, errors)
        try:
            with interrupts.asking(interrupts.hand_on):
                launch_command(options)
        except ChildFailedError as error:
            return _verdict([failure.exitcode for failure in error.failures.values()])
        except subprocess.CalledProcessError as error:
            return _verdict([error.returncode])
    return 0


def _verdict(codes: Sequence[int]) -> int:
    """One exit code for all ranks. A rank that the launcher ended (SIGTERM) because of another doesn't count."""
    for code in (BAD_INPUT, HUNG, INTERRUPTED, STOPPED):
        if code in codes:
            return code
    if interrupts.asked():  # before they could answer
        if first_to_tell(INTERRUPTION):
            print(INTERRUPTION, file=sys.stderr, flush=True)
        return INTERRUPTED
    own = [code for code in codes if code != -signal.SIGTERM]
    if not own:
        return SIGNALLED + signal.SIGTERM
    return SIGNALLED - own[0] if own[0] < 0 else 1


def _forward_signals() -> None:
    """SIGTERM and SIGUSR1 go to the ranks, which end in their own time; the launcher waits for them."""

    def forward(number: int, frame: FrameType | None) -> None:
        if not interrupts.to_children(number):  # there are no ranks yet that could answer
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)
