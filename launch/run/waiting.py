"""How long a training waits for data (from `record` to the next `stopping`) and for the slowest rank (in `stopping`).

The slowest rank waits least. Asynchronous GPU work isn't counted; a slow GPU shows once its rank's queue is full.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence

import torch


class Waits:
    """Sums one rank's waiting between two log lines."""

    def __init__(self) -> None:
        self._began = self._step_ended = time.monotonic()
        self._data = self._others = 0.0

    def batch_came(self) -> None:
        """The wait for a batch is over."""
        self._data += time.monotonic() - self._step_ended

    def met(self, seconds: float) -> None:
        """The ranks met after this rank waited so long."""
        self._others += seconds

    def step_ended(self) -> None:
        """From here on the loop waits for its next batch."""
        self._step_ended = time.monotonic()

    def take(self) -> tuple[float, float, float, float]:
        """Seconds since the last call, of them waiting for data and for other ranks, and this process's peak memory."""
        now = time.monotonic()
        taken = (now - self._began, self._data, self._others, peak_gigabytes())
        self._began, self._data, self._others = now, 0.0, 0.0
        return taken


def summary(ranks: Sequence[tuple[float, float, float, float]]) -> dict[str, float]:
    """All ranks' waits for the log: shares of the time, the slowest rank, the largest memory."""
    elapsed = max(max(seconds for seconds, _, _, _ in ranks), 1e-9)
    found: dict[str, float] = {
        "wait/data_share": sum(data for _, data, _, _ in ranks) / len(ranks) / elapsed,
        "memory/peak_gigabytes": max(memory for _, _, _, memory in ranks),
    }
    if len(ranks) > 1:
        waited = [others for _, _, others, _ in ranks]
        slowest = min(range(len(ranks)), key=waited.__getitem__)
        found["wait/slowest_rank"] = slowest
        # What the ranks would gain on average were the slowest as fast as they.
        found["wait/for_slowest_share"] = (sum(waited) / len(ranks) - waited[slowest]) / elapsed
    return found


def peak_gigabytes() -> float:
    """The most memory held so far: the GPU's where torch uses one, else the process's; in units of 10⁹ bytes."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
