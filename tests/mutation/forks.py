"""Work in forked processes, each in a temporary folder and a session of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


def in_children(
    jobs: Iterable[tuple[Any, Callable[[], int], float]], workers: int
) -> Iterator[tuple[Any, int | None, str, float]]:
    """Run (name, function, seconds) in forked processes: (name, exit code or None after a timeout, its word, seconds).

    A function leaves its word in the file `word` of its own temporary folder.
    """
    running: dict[int, tuple[Any, float, float, Path]] = {}
    waiting = iter(jobs)
    more = True
    while more or running:
        while more and len(running) < workers:
            job = next(waiting, None)
            if job is None:
                more = False
                break
            folder = Path(tempfile.mkdtemp(prefix="mutant-"))
            if (pid := os.fork()) == 0:
                _in_child(job[1], folder)
            running[pid] = (job[0], time.monotonic(), job[2], folder)
        for pid, (name, started, seconds, folder) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            took = time.monotonic() - started
            if not done and took < seconds:
                continue
            _end(pid, waiting=not done)
            word = folder / "word"
            text = word.read_text() if word.exists() else ""
            shutil.rmtree(folder, ignore_errors=True)
            del running[pid]
            yield name, os.waitstatus_to_exitcode(status) if done else None, text, took
        time.sleep(0.01)


def _in_child(function: Callable[[], int], folder: Path) -> None:
    os.setsid()
    os.environ.update(TMPDIR=str(folder), PYTEST_DEBUG_TEMPROOT=str(folder), PYTHONDONTWRITEBYTECODE="1")
    tempfile.tempdir = str(folder)
    code = 70
    try:
        code = function()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException as error:
        (folder / "word").write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _end(pid: int, *, waiting: bool) -> None:
    """End a child and the processes that its test started: its session's group, which is its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if waiting:
        os.waitpid(pid, 0)


def fork_ranks() -> None:
    """Let tests' ranks be forked instead of spawned, so that they have the mutant."""
    context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: context("fork")  # type: ignore[assignment]
