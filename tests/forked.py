"""Processes that needn't import anything: a server imports torch and this project once, and they are forked from it.

`context` makes processes for functions (tests.distributed has ranks of it). `call` and `Command` run a command as
`python -m` does in the repository's root, with environment and output of its own. What is about an interpreter's start,
as the order of imports or how threads are set up, needs a real one: then use subprocess.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "torch",
    "torch._dynamo",  # which optimizers and DistributedDataParallel import
    "accelerate",
    "pytest",
    "tests.forked",
    "launch.run.starting",
    "stage1_tokenizer.media",
    "stage1_tokenizer.training.loop",
    "stage1_tokenizer.training.trained",
    "stage2_prior.training.loop",
)
"""What the server imports before it forks. None of them may start threads or use a device."""


def context() -> Any:
    """A context of multiprocessing whose processes are forked from the server; it has one thread of OpenMP."""
    made: Any = multiprocessing.get_context("forkserver")
    if made.get_start_method() == "forkserver":  # trials of tests.mutation fork themselves
        made.set_forkserver_preload([*PRELOADED])
        with contextlib.chdir(ROOT), mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
            forkserver.ensure_running()
    return made


def be(environment: Mapping[str, str]) -> None:
    """Take over a whole environment; the server's is that of the test that started it."""
    os.environ.clear()
    os.environ.update(environment)


class Command:
    """A command in a process of its own, which may be watched, sent signals and waited for."""

    def __init__(self, line: Sequence[object], env: Mapping[str, str] | None = None, session: bool = False) -> None:
        """`line` is [python, "-m", MODULE, WORD…]; with `session` it leads a session and group of its own."""
        python, flag, module, *words = map(str, line)
        assert (python, flag) == (sys.executable, "-m"), "only `python -m MODULE` can be forked"
        self.line, self._folder = [python, flag, module, *words], tempfile.TemporaryDirectory()
        self.files = [Path(self._folder.name, name) for name in ("out", "err")]
        for file in self.files:
            file.touch()
        environment = {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"}
        given = (module, words, environment, [str(file) for file in self.files], session)
        self._process = context().Process(target=_run, args=given)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of subprocess.Popen."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As of subprocess.Popen."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As of subprocess.Popen."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """As of subprocess.Popen."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.line, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self.wait(timeout)
        out, err = (file.read_text() for file in self.files)
        return out, err


def call(line: Sequence[object], *, timeout: float | None = 600, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as subprocess.run(…, capture_output=True, text=True)."""
    command = Command(line, **options)
    try:
        out, err = command.communicate(timeout)
    finally:
        command.send_signal(signal.SIGKILL)
    return subprocess.CompletedProcess(command.line, command.wait(), out, err)


def _run(module: str, words: list[str], environment: dict[str, str], files: list[str], session: bool) -> None:
    """The forked process: what `python -m MODULE WORD…` does in the repository's root."""
    if session:
        os.setsid()
    os.chdir(ROOT)
    be(environment)
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # in trials of tests.mutation they are pytest's
    sys.modules.pop(module, None)
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a forked process leaves out
