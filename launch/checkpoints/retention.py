"""Which checkpoints are deleted once a new one is complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.config import RunConfig
from launch.run import metrics


def to_delete(folder: Path, steps: Sequence[int], keep: int, config: RunConfig | None) -> list[int]:
    """Steps whose checkpoints are to be deleted: not among the `keep` newest, no multiple of run.keep_every, not best.

    `steps` are those there, newest first.
    """
    every = config.keep_every if config else 0
    best = best_step(folder, steps, config.keep_best) if config and config.keep_best else None
    return [step for step in steps[keep:] if step != best and not (every and step % every == 0)]


def best_step(folder: Path, steps: Sequence[int], rule: str) -> int | None:
    """The step with the best evaluation of those in `steps`, by metrics.jsonl; None where none was evaluated."""
    name, _, which = rule.rpartition(":")
    lines = metrics.read(folder / metrics.FILE)
    values = {line["step"]: line[name] for line in lines if name in line and line["step"] in set(steps)}
    if not values:
        return None
    return (min if which == "min" else max)(values, key=lambda step: values[step])
