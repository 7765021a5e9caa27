"""The project's commands in processes of their own: by a new interpreter, or forked, which saves the imports."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.command.cli import run as run_command
from tests.gpu.sections.bench import ROOT

FORK = multiprocessing.get_context("fork")


class Forked:
    """A forked process with the methods of subprocess.Popen that are used here."""

    def __init__(self, job: Callable[[], Any], log: Path | None = None):
        sys.stdout.flush()
        self.process = FORK.Process(target=_inside, args=(job, log))
        self.process.start()

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code when it has ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked command", timeout or 0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """As os.kill, if it still runs."""
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, number)


def _inside(job: Callable[[], Any], log: Path | None) -> None:
    if log is not None:
        with log.open("a") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
    job()


def command(module: str, words: list[str]) -> None:
    """A command's main with these words, in this process; it exits as the command does."""
    sys.argv = [module, *words]
    run_command(importlib.import_module(module).main)


def launched(module: str, words: list[str], log: Path, *, fork: bool) -> Forked | subprocess.Popen[bytes]:
    """Start a command as `python -m` does, or forked."""
    if fork:
        return Forked(lambda: command(module, words), log)
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", module, *words], cwd=ROOT, stdout=file, stderr=file)
