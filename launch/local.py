"""Start a command of this project on one machine: `python -m launch.local --processes N MODULE ARGUMENT…`.

It is `accelerate launch` with the flags that make N ranks belong together, and with a plain ending: a user's mistake
stays one line and exit code 2, a stop by signal keeps its exit code (`STOPPED`), and a failure is told
by the rank that failed, not by the launcher's own trace.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

from launch.command.checks import at_least
from launch.command.cli import ERRORS_FOLDER, parse, run
from launch.command.exit_codes import BAD_INPUT, HUNG, SIGNALLED, STOPPED
from launch.ranks.launcher import launch_arguments


@dataclass(frozen=True)
class LocalConfig:
    """Start a module of this project on several ranks of this machine."""

    module: str
    """stage1_tokenizer.train, stage2_prior.sample, …; the first word."""
    arguments: list[str] = field(default_factory=list)
    """The module's own options: all that comes after its name."""
    processes: int = 1
    """Ranks on this machine."""

    def __post_init__(self) -> None:
        at_least(1, self, "processes")


def start(module: str, arguments: Sequence[str], processes: int = 1) -> int:
    """Run a module on `processes` ranks of this machine and wait; the exit code that tells what happened."""
    return supervise(launch_arguments(module, arguments, processes))


def supervise(flags: Sequence[str]) -> int:
    """Be `accelerate launch FLAGS…` in this process and wait; the exit code that tells what happened.

    0, BAD_INPUT, STOPPED or HUNG where a rank ended with it, else 1 (and 128 + signal for a rank that a signal killed).
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
            launch_command(options)
        except ChildFailedError as error:
            return _verdict([failure.exitcode for failure in error.failures.values()])
        except subprocess.CalledProcessError as error:
            return _verdict([error.returncode])
    return 0


def _verdict(codes: Sequence[int]) -> int:
    """One exit code for the ranks'. A rank that the launcher ended (SIGTERM) because of another says nothing."""
    for code in (BAD_INPUT, HUNG, STOPPED):
        if code in codes:
            return code
    own = [code for code in codes if code != -signal.SIGTERM]
    if not own:
        return SIGNALLED + signal.SIGTERM
    return SIGNALLED - own[0] if own[0] < 0 else 1


def _forward_signals() -> None:
    """SIGTERM, SIGUSR1 and SIGINT go to the ranks, which end in their own time; the launcher waits for them."""
    import psutil  # not in the handler, which a second signal may interrupt

    def forward(number: int, frame: FrameType | None) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                child.send_signal(number)
                child.send_signal(signal.SIGCONT)  # a stopped rank would not hear it

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)


def main(argv: Sequence[str] | None = None) -> int:
    """Read `--processes N MODULE ARGUMENT…` and start it."""
    prog = "python -m launch.local [--processes N] MODULE ARGUMENT…"
    config = parse(LocalConfig, argv, prog=prog, positional=("module",), rest="arguments")
    return start(config.module, config.arguments, config.processes)


if __name__ == "__main__":
    run(main)
