"""Python's garbage collection in step: all ranks pause after the same steps, not each at its own time."""

from __future__ import annotations

import gc

YOUNG, ALL = 50, 1000
"""Steps between two collections of young objects, and of all of them."""


class Garbage:
    """Collects by count of steps instead of by count of objects, until `close`. Results don't depend on it."""

    def __init__(self) -> None:
        self._steps = 0
        self._enabled = gc.isenabled()

    def step_done(self) -> None:
        """Count a step. After the first one, what there is by then (modules, networks) is no longer looked through."""
        if self._steps == 0:
            gc.collect()
            gc.freeze()
            gc.disable()
        self._steps += 1
        if self._steps % YOUNG == 0:
            gc.collect(2 if self._steps % ALL == 0 else 1)

    def close(self) -> None:
        """Collect as Python does again."""
        if self._steps:
            gc.unfreeze()
            if self._enabled:
                gc.enable()
        self._steps = 0
