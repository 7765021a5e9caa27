"""How far a chain or a run is, from its files alone: nothing is asked of SLURM, so it works wherever they are seen."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.checkpoints import folders
from launch.command.cli import UserError
from launch.files.inputs import settings_of
from launch.run import metrics
from launch.stages import records
from launch.stages.jobs import NEEDS
from launch.stages.stage import TRAINS

STALE_SECONDS = 300
"""A running training whose last line is older is called silent."""

MAIN_LOSSES = ("loss/nll_bits", "loss/total", "loss/rec")
"""The loss that is shown, the first of these that a run has, else the first one by name."""

HEADER = ("stage", "state", "step", "rate", "left", "loss", "restarts", "note")


@dataclass(frozen=True)
class Training:
    """What a run folder tells of its training."""

    step: int
    """Steps done, by metrics or checkpoint."""
    steps: int | None
    """Steps to be done."""
    per_second: float | None
    """Steps a second, over the newest lines of one attempt."""
    loss: str
    """The last loss with its name; empty without one."""
    age: float | None
    """Seconds since the last line."""
    starts: int
    """How often it was started."""

    @property
    def left(self) -> float | None:
        """Seconds to the end at this rate."""
        return max(0, self.steps - self.step) / self.per_second if self.steps and self.per_second else None


def training(folder: Path, now: float | None = None) -> Training | None:
    """Read a run folder; None where there is none."""
    if not (folder / "config.yaml").exists():
        return None
    config = settings_of(folder / "config.yaml")
    lines = [line for line in metrics.read(folder / metrics.FILE) if line["kind"] == "train"]
    saved = next(iter(folders.steps(folder)), 0)
    last = lines[-1] if lines else None
    done = max(saved, last["step"] + 1 if last else 0)
    starts = folder / "run.json"
    return Training(
        step=done,
        steps=config.get("steps"),
        per_second=_rate(lines),
        loss=_loss(last) if last else "",
        age=(now or time.time()) - last["time"] if last else None,
        starts=len(settings_of(starts).get("starts", ())) if starts.exists() else 0,
    )


def _rate(lines: Sequence[dict[str, Any]]) -> float | None:
    """Steps a second between the newest lines, as far back as they follow each other without an interruption."""
    gaps = [
        (after["step"] - before["step"], after["time"] - before["time"])
        for before, after in itertools.pairwise(lines[-6:])
    ]
    if not gaps:
        return None
    usual = statistics.median_high(seconds for _, seconds in gaps)
    kept = [(steps, seconds) for steps, seconds in gaps if seconds <= 3 * usual + 1e-9]
    total = sum(seconds for _, seconds in kept)
    return sum(steps for steps, _ in kept) / total if total > 0 else None


def _loss(line: dict[str, Any]) -> str:
    names = [name for name in MAIN_LOSSES if name in line] or sorted(name for name in line if name.startswith("loss/"))
    return f"{names[0].removeprefix('loss/')} {line[names[0]]:.4g}" if names else ""


def stage_row(out: Path, name: str, files: Sequence[Path]) -> tuple[str, ...]:
    """The line of one stage; `files` are its records, one for each part."""
    states = [records.load(path) for path in files]
    state = _summary(states)
    restarts = sum(max(0, len(one["attempts"]) - 1) for one in states)
    seen = training(out / f"{name}-run") if name in TRAINS else None
    notes = [str(one["reason"]) for one in states if one.get("reason")][:1]
    if seen is None:
        if len(states) > 1:
            notes.append(f"{sum(one['state'] == 'done' for one in states)}/{len(states)} parts")
        return (name, state, "", "", "", "", str(restarts) if states else "", "; ".join(notes))
    if not states:
        return run_row(name, seen, notes)
    if state == "running" and seen.age is not None and seen.age > STALE_SECONDS:
        notes.append(f"silent for {span(seen.age)}")
    return run_row(name, seen, notes, state, restarts)


def run_row(
    name: str, seen: Training, notes: Sequence[str], state: str = "", restarts: int | None = None
) -> tuple[str, ...]:
    """The line of a training; its state and restarts as its own folder tells them, where they aren't given."""
    state = state or ("done" if seen.step == seen.steps else "begun")
    rate = f"{seen.per_second:.3g}/s" if seen.per_second else ""
    left = span(seen.left) if state not in ("done", "failed") and seen.left is not None else ""
    step = f"{seen.step}/{seen.steps}" if seen.steps else str(seen.step)
    again = seen.starts - 1 if restarts is None else restarts
    return (name, state, step, rate, left, seen.loss, str(again), "; ".join(notes))


def _summary(states: Sequence[dict[str, Any]]) -> str:
    """One word for all parts: the most pressing of theirs."""
    words = {one["state"] for one in states}
    for word in ("failed", "running"):
        if word in words:
            return word
    if words == {"done"}:
        return "done"
    if any(attempt["job"] for one in states for attempt in one["attempts"]):
        return "requeued"
    return "begun" if states else "waiting"


def table(out: Path) -> list[tuple[str, ...]]:
    """The status of a chain's or a run's folder. UserError where it is neither."""
    if (seen := training(out)) is not None:
        notes = [f"last line {span(seen.age)} ago"] if seen.age is not None else []
        return [HEADER, run_row(out.name, seen, notes)]
    files: dict[str, list[Path]] = {}
    for path in sorted((out / "stages").glob("*.json")):
        files.setdefault(path.name.split(".")[0], []).append(path)
    jobs = records.jobs(out)
    if not files and not jobs:
        raise UserError(f"{out} is neither a run's folder nor a chain's: it has no config.yaml, stages or jobs.json")
    names = [name for stage in NEEDS for name in (stage, f"{stage}-index") if name in {*NEEDS, *jobs, *files}]
    return [HEADER, *(stage_row(out, name, files.get(name, [])) for name in names)]


def aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def span(seconds: float) -> str:
    """A time in words: 35s, 12m, 3h05m, 2d04h."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{int(seconds)}s"
    if minutes < 60:
        return f"{minutes}m"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes // 60 % 24:02d}h"
