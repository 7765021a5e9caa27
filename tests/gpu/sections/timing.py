"""Times and peak memory of forms that take turns on one device."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.gpu.sections.bench import short

GIB = 2**30
Step = Callable[[], Any]


def seconds(call: Step, device: str, times: int = 1) -> float:
    """Of one call, the mean of some in a row: by CUDA's events, or the processor's clock."""
    if device == "cpu":
        began = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - began) / times
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(times):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / times


def best(call: Step, device: str, turns: int = 5) -> float:
    """The least of some turns, after one that isn't counted."""
    call()
    return min(seconds(call, device, 3) for _ in range(turns))


@dataclass
class Taken:
    """What a form took."""

    seconds: list[float] = field(default_factory=list)
    state_gib: float = 0.0
    """Held between steps: weights, optimizers, averages."""
    step_gib: float = 0.0
    """At most, in a step, beyond that."""
    warming_s: float = 0.0
    """Building and the steps that aren't counted, compiling among them."""
    error: str | None = None

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def peak_gib(self) -> float | None:
        """All memory that the form would need alone; None on a CPU."""
        return round(self.state_gib + self.step_gib, 2) if self.state_gib else None


def allocated(device: str) -> float:
    """GiB in use now."""
    return torch.cuda.memory_allocated() / GIB if device == "cuda" else 0.0


def in_turns(
    forms: Mapping[str, Callable[[], Step]], device: str, *, turns: int = 5, steps: int = 2, warm: int = 3
) -> dict[str, Taken]:
    """Build every form, warm it up, then let all take turns. A form that fails leaves the others alone."""
    taken = {name: Taken() for name in forms}
    ready: dict[str, Step] = {}
    for name, make in forms.items():
        began, before = time.monotonic(), allocated(device)
        try:
            ready[name] = make()
            for _ in range(warm):
                ready[name]()
            if device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            failed(taken[name], ready, name, error)
        taken[name].state_gib = allocated(device) - before
        taken[name].warming_s = round(time.monotonic() - began, 1)
    for _ in range(turns):
        for name, step in list(ready.items()):
            try:
                one_turn(taken[name], step, device, steps)
            except Exception as error:
                failed(taken[name], ready, name, error)
    return taken


def one_turn(taken: Taken, step: Step, device: str, steps: int) -> None:
    """Some steps of one form."""
    before = allocated(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken.seconds.append(seconds(step, device, steps))
    if device == "cuda":
        taken.step_gib = max(taken.step_gib, torch.cuda.max_memory_allocated() / GIB - before)


def failed(taken: Taken, ready: dict[str, Step], name: str, error: Exception) -> None:
    """Note an error, and give back what the form held."""
    traceback.print_exception(error)
    taken.error = short(error)
    ready.pop(name, None)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
