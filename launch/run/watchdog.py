"""Kills a hung rank after dumping its stack traces, so that the job can start again.

A rank that waits for a lost or stopped peer would otherwise wait until the process group's timeout.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time

import psutil

from launch.command.exit_codes import HUNG

GRACE = 3.0
"""Seconds between a rank's dump and its end, in which the other ranks, which hang with it, write theirs."""

FIRST = 10
"""The first step may take this many times the limit: libraries load and kernels are compiled."""


class Watchdog:
    """Ends this process after `limit` seconds without a heartbeat; a limit of 0 watches nothing."""

    def __init__(self, limit: float, rank: int):
        self._limit, self._rank = limit * FIRST, rank
        self._usual = limit
        self._last, self._closed = time.monotonic(), threading.Event()
        if limit > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def heartbeat(self) -> None:
        """A sign of life. One that comes after the limit doesn't count: the job is ending by then."""
        now = time.monotonic()
        if self._limit <= 0 or now - self._last <= self._limit:
            self._last = now

    def step_done(self) -> None:
        """A heartbeat after which the usual limit holds."""
        self.heartbeat()
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
            f"rank {self._rank} on {os.uname().nodename} hung for {still:.0f} s (run.watchdog={self._limit:g}) "
            f"and ends with exit code {HUNG}; its stack traces:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        _wake_siblings()
        time.sleep(GRACE)
        os._exit(HUNG)


def _wake_siblings() -> None:
    """A stopped rank (SIGSTOP, a debugger) can't dump its stacks: let the other ranks of this node continue."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(os.getppid()).children():
            with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                if process.pid != os.getpid():
                    process.send_signal(signal.SIGCONT)
