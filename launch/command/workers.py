"""Forked worker processes, which leave nothing running behind them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from launch.command import interrupts


@contextlib.contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, forked, so that they share this one's memory. They end with this process, however it ends.

    Where the block ends by an exception, Ctrl-C among them, they are killed at their work.
    """
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end as soon as that is gone, even if it was killed with -9."""
    interrupts.leave_to_parent()
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a started process is ended"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
