"""Two records of tests.golden.record, compared: what differs, and by how much.

Training is chaotic: a difference in the last bit (another processor, another kernel) grows within a few of Adam's first
steps to per cents of the loss. So a record made on the same processor is held to almost nothing, one made on another
to equal integers and schedules, to the first two steps, and to losses that are alike; tests/legacy holds trained
weights to their outputs on any processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Limits:
    """What may differ."""

    exact: bool = False
    """Nothing may."""
    losses: float = 1e-4
    """Relative difference of losses and everything else that was logged."""
    codes: float = 0.99
    """Share of codes that must be equal."""
    losses_only: bool = False
    """Pass over what isn't a loss."""


SAME_PROCESSOR = Limits()
OTHER_PROCESSOR = Limits(losses=0.1, codes=0.0, losses_only=True)
BITS = Limits(exact=True, losses=0.0, codes=1.0)

FIRST_STEPS = (1e-5, 2e-3)
"""Relative difference of the losses at steps 0 and 1 that any processor's rounding stays below."""

SCHEDULES = ("step", "kind", "learning_rate", "optimizer/rate_share", "updates/skipped", "eval/samples")
"""What is logged that no rounding changes."""

LOSSES = ("loss/", "eval/bits_per_code", "eval/lpips")
"""Beginnings of what counts as a loss."""


def differences(recorded: dict[str, Any], found: dict[str, Any], limits: Limits) -> list[str]:
    """A line for each difference. What wasn't run this time (the masked prior) is passed over."""
    return [f"{place}: recorded {a}, now {b}" for place, a, b in _differences(recorded, found, limits)]


Difference = tuple[str, Any, Any]


def _differences(recorded: dict[str, Any], found: dict[str, Any], limits: Limits) -> Iterator[Difference]:
    if recorded["order"] != found["order"]:
        yield "order", "other batches", "these"
    first, second = recorded["tokenizer"], found["tokenizer"]
    for number, (a, b) in enumerate(zip(first["start"], second["start"], strict=True)):
        first_limit = min(FIRST_STEPS[number], limits.losses)
        yield from logged(f"tokenizer.start[{number}]", a, b, Limits(limits.exact, first_limit, losses_only=True))
    if limits.exact and first["fingerprint"] != second["fingerprint"]:
        yield "tokenizer.fingerprint", first["fingerprint"], second["fingerprint"]
    yield from _metrics("tokenizer", first, second, limits)
    yield from _codes("tokenizer.codes", first["codes"], second["codes"], limits)
    for kind in ("prior", "masked"):
        if kind in recorded and kind in found:
            yield from _prior(kind, recorded[kind], found[kind], limits)


def _prior(kind: str, recorded: dict[str, Any], found: dict[str, Any], limits: Limits) -> Iterator[Difference]:
    if limits.exact and recorded["weights"] != found["weights"]:
        yield f"{kind}.weights", recorded["weights"], found["weights"]
    if not near(recorded["bits_per_code"], found["bits_per_code"], limits.losses):
        yield f"{kind}.bits_per_code", recorded["bits_per_code"], found["bits_per_code"]
    yield from _metrics(kind, recorded, found, limits)
    yield from _codes(f"{kind}.samples", recorded["samples"], found["samples"], limits)


def differences_of_metrics(
    place: str, recorded: list[dict[str, Any]], found: list[dict[str, Any]], limits: Limits
) -> list[str]:
    """A line for each difference between the logged lines of two runs."""
    pair = {"metrics": recorded}, {"metrics": found}
    return [f"{at}: recorded {a}, now {b}" for at, a, b in _metrics(place, *pair, limits)]


def _metrics(stage: str, recorded: dict[str, Any], found: dict[str, Any], limits: Limits) -> Iterator[Difference]:
    lines, others = recorded["metrics"], found["metrics"]
    if len(lines) != len(others):
        yield f"{stage}.metrics", f"{len(lines)} lines", f"{len(others)} lines"
    for a, b in zip(lines, others, strict=False):
        yield from logged(f"{stage} step {a['step']} {a['kind']}", a, b, limits)


def logged(place: str, recorded: dict[str, Any], found: dict[str, Any], limits: Limits) -> Iterator[Difference]:
    """One line of metrics: everything recorded must be there still; what is new is passed over."""
    for name, value in recorded.items():
        if name not in found:
            yield f"{place} {name}", value, "not logged (renamed? then add it to RENAMED)"
        elif name in SCHEDULES:
            if found[name] != value:
                yield f"{place} {name}", value, found[name]
        elif not near(value, found[name], limits.losses) and (name.startswith(LOSSES) or not limits.losses_only):
            yield f"{place} {name}", value, found[name]


def near(recorded: float, found: float, tolerance: float) -> bool:
    """Whether two numbers differ by at most this share of the first."""
    return abs(recorded - found) <= tolerance * abs(recorded)


def _codes(place: str, recorded: dict[str, Any], found: dict[str, Any], limits: Limits) -> Iterator[Difference]:
    if limits.exact and recorded["sha256"] != found["sha256"]:
        yield f"{place}.sha256", recorded["sha256"], found["sha256"]
    first, second = np.array(recorded["codes"]), np.array(found["codes"])
    if first.shape != second.shape:
        yield place, first.shape, second.shape
    elif (share := float((first == second).mean())) < limits.codes:
        yield place, "all of them", f"{share:.1%} equal"
