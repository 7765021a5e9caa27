"""Skips updates whose gradients are NaN or Inf, and counts them without waiting for the device.

A few in a row are tolerated. More roll the run back to its newest checkpoint, and the samples then come in
another order; after `run.rollbacks` of those the run stops.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = "rollbacks.json"
SEED_STEP = 1_000_003
"""Added to the seed of the samples' order by each rollback."""


class NotFiniteError(RuntimeError):
    """A loss or a gradient is infinite or not a number."""


class Guard:
    """Counts skipped updates on the device. All ranks add the same, as `all_finite` gives it."""

    def __init__(self) -> None:
        self.watching = False
        self.skipped = 0
        self._new: Any = 0
        self._in_a_row: Any = 0

    def add(self, good: Tensor) -> None:
        """Count an update: whether it was done, a boolean of one element on its device."""
        self.watching = True
        self._new = self._new + ~good
        self._in_a_row = torch.where(good, 0, self._in_a_row + 1)

    def check(self, say: Callable[[str], None], limit: int, where: str) -> None:
        """Say what was skipped since the last call; waits for the device.

        Raises NotFiniteError after more than `limit` skipped updates in a row. `where` names the losses that weren't
        finite, or is empty; where no updates were watched, one such loss is enough.
        """
        if not self.watching and where:
            raise NotFiniteError(f"a loss is not finite{where}: lower the learning rate, or look at the newest data")
        new, in_a_row = int(self._new), int(self._in_a_row)
        self.skipped, self._new = self.skipped + new, 0
        if new:
            say(f"{new} update{'s' if new > 1 else ''} skipped, whose gradients were not finite{where}")
        if in_a_row > limit:
            raise NotFiniteError(f"{in_a_row} updates in a row had gradients that are not finite{where}")


def rollbacks(folder: Path) -> list[dict[str, Any]]:
    """The run's rollbacks so far, oldest first, each with its reason."""
    path = folder / FILE
    return list(json.loads(path.read_text())) if path.exists() else []
