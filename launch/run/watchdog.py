"""The end of a rank that stands still: it tells where, and dies, so that the job can start again.

A rank that waits for a lost or stopped peer would wait until the process group's timeout. The watchdog is a thread that
counts from the last sign of life (a step's boundary, a log line, a checkpoint); past the limit it writes the stacks of
all threads to stderr and ends the process with HUNG.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time

from launch.command.exit_codes import HUNG

GRACE = 3.0
"""Seconds between a rank's dump and its end, in which the other ranks, who hang with it, write theirs."""


FIRST = 10
"""How many times the limit the time to the first finished step may take: libraries load and kernels are compiled."""


class Watchdog:
    """Ends this process when `alive` wasn't called for `limit` seconds; a limit of 0 watches nothing."""

    def __init__(self, limit: float, rank: int):
        self._limit, self._rank = limit * FIRST, rank
        self._usual = limit
        self._last, self._closed = time.monotonic(), threading.Event()
        if limit > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def alive(self) -> None:
        """A sign of life. One that comes after the limit counts for nothing: the job is ending by then."""
        now = time.monotonic()
        if self._limit <= 0 or now - self._last <= self._limit:
            self._last = now

    def step_done(self) -> None:
        """A sign of life after which the usual limit holds."""
        self.alive()
        self._limit = self._usual

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._usual / 10)):
            still = time.monotonic() - self._last
            if still > self._limit:
                self._end(still)

    def _end(self, still: float) -> None:
        print(
            f"rank {self._rank} on {os.uname().nodename} stands still for {still:.0f} s (run.watchdog={self._limit:g}) "
            f"and ends with exit code {HUNG}; its stacks:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        _wake_siblings()
        time.sleep(GRACE)
        os._exit(HUNG)


def _wake_siblings() -> None:
    """A stopped rank (SIGSTOP, a debugger) can't tell its stacks: let the other ranks of this node go on."""
    import psutil

    try:
        ranks = psutil.Process(os.getppid()).children()
    except psutil.Error:
        return
    for process in ranks:
        if process.pid != os.getpid():
            try:
                process.send_signal(signal.SIGCONT)
            except psutil.Error:
                continue
