"""The record of each stage, OUT/stages/<stage>.json: its state, its attempts, what ran and how long.

    {"state": "waiting" | "running" | "done" | "failed", "attempts": […], "done": bool, "seconds": …, "reason": …}

and, of stages that launch.stages.runner ran for the quickstart, "key" (a hash of its configuration), "command", "date".
A part of an array job has a file of its own, OUT/stages/codes-train.3.json. The batch scripts call

    python -m launch.stages.records begin --out OUT --stage tokenizer            # 0, or 2 where it may not start
    python -m launch.stages.records end --out OUT --stage tokenizer --code 85    # prints done, requeue or fail

and a stage that is requeued again and again without a newer checkpoint is given up.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from launch.checkpoints import folders
from launch.command.cli import UserError, parse, run
from launch.command.exit_codes import BAD_INPUT, INTERRUPTED, STOPPED
from launch.files.atomic import write_file
from launch.files.outputs import try_folder
from launch.run import provenance

JOBS = "jobs.json"

MOST_IDLE = 3
"""Attempts in a row without a newer checkpoint after which a stage is given up (VQLOOM_MOST_IDLE)."""


@dataclass(frozen=True)
class RecordConfig:
    """Note that an attempt of a stage begins or ends; the batch scripts call it."""

    action: Literal["begin", "end"]
    """The first word."""
    out: Path
    """The chain's folder."""
    stage: str
    """The stage."""
    part: int | None = None
    """Which part of an array job; null: the stage is one job."""
    code: int = 0
    """end: the exit code."""
    why: str = ""
    """end: the reason in words."""


def path(out: Path, stage: str, part: int | None = None) -> Path:
    """The file of a stage, or of one part of it."""
    return out / "stages" / (f"{stage}.json" if part is None else f"{stage}.{part}.json")


def read(out: Path, stage: str, part: int | None = None) -> dict[str, Any]:
    """A stage's record; waiting where it never ran."""
    file = path(out, stage, part)
    return load(file) if file.exists() else {"state": "waiting", "attempts": []}


def jobs(out: Path) -> dict[str, Any]:
    """The jobs that a chain's stages were last submitted as, by stage: {"job": id, "nodes": n, …}."""
    path = out / JOBS
    return dict(json.loads(path.read_text())["stages"]) if path.exists() else {}


def load(file: Path) -> dict[str, Any]:
    """A record, also one that launch.pipeline wrote when its records had no attempts."""
    record: dict[str, Any] = json.loads(file.read_text())
    if "attempts" not in record:
        state = "done" if record.get("done") else "waiting"
        record |= {"state": state, "attempts": [], "earlier_seconds": record.get("seconds", 0.0)}
    return record


def begin(
    out: Path, stage: str, part: int | None = None, most_idle: int | None = MOST_IDLE, **details: str | list[str] | None
) -> None:
    """Note that an attempt starts, with details of it that the record keeps.

    Raises UserError where `most_idle` attempts of this job in a row brought no newer checkpoint.
    """
    state = read(out, stage, part)
    now = _newest_step(out, stage)
    attempts = state["attempts"]
    if attempts and "code" not in attempts[-1]:  # lost with its node; nobody knows when, so it counts no seconds
        attempts[-1] |= {"code": None, "to": now, "why": "gone without a word (node or batch job)"}
    job = os.environ.get("SLURM_JOB_ID", "")
    # A fresh submission, by a person, starts the count anew.
    idle = len(list(takewhile(_idle, (attempt for attempt in reversed(attempts) if attempt["job"] == job))))
    if job and most_idle is not None and idle >= most_idle:
        reason = f"{idle} attempts in a row brought no newer checkpoint (VQLOOM_MOST_IDLE={most_idle})"
        _write(out, stage, part, {**state, "state": "failed", "reason": reason})
        raise UserError(f"stage {stage} is given up: {reason}; the last one: {attempts[-1].get('why', 'unknown')}")
    attempts.append(
        {
            "job": job,
            "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "nodes": os.environ.get("SLURM_JOB_NODELIST", os.uname().nodename),
            "began": time.time(),
            "from": now,
        }
    )
    kept = {"earlier_seconds": state.get("earlier_seconds"), **details}
    kept = {name: value for name, value in kept.items() if value is not None}
    _write(out, stage, part, {"state": "running", "attempts": attempts, "date": provenance.now(), **kept})


def end(out: Path, stage: str, code: int, part: int | None = None, why: str = "") -> str:
    """Note how the running attempt ended, and say what is to be done: `done`, `requeue` or `fail`."""
    state = read(out, stage, part)
    attempts = state["attempts"] or [{"job": "", "restart": 0, "began": time.time(), "from": None}]
    attempts[-1] |= {"ended": time.time(), "code": code, "to": _newest_step(out, stage)}
    saved = "" if _idle(attempts[-1]) else ", with a checkpoint"
    reasons = {
        0: "finished",
        STOPPED: f"stopped by a signal{saved}",
        INTERRUPTED: f"stopped by Ctrl-C{saved}",
        BAD_INPUT: "refused its input",
    }
    why = why or reasons.get(code, f"ended with exit code {code}")
    attempts[-1]["why"] = why
    verdict = {0: "done", BAD_INPUT: "fail"}.get(code, "requeue")
    state |= {"state": {"done": "done", "fail": "failed"}.get(verdict, "waiting"), "attempts": attempts}
    if verdict != "done":
        state["reason"] = why
    _write(out, stage, part, state)
    return verdict


def _newest_step(out: Path, stage: str) -> int | None:
    return next(iter(folders.steps(out / f"{stage}-run")), None)


def _idle(attempt: dict[str, Any]) -> bool:
    """Whether an attempt brought no newer checkpoint."""
    return (attempt.get("to") or 0) <= (attempt["from"] or 0)


def _write(out: Path, stage: str, part: int | None, state: dict[str, Any]) -> None:
    place = path(out, stage, part)
    worked = sum(attempt["ended"] - attempt["began"] for attempt in state["attempts"] if "ended" in attempt)
    state |= {"done": state["state"] == "done", "seconds": round(state.get("earlier_seconds", 0.0) + worked, 1)}
    write_file(place, json.dumps(state, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command that the batch scripts call."""
    prog = "python -m launch.stages.records begin|end"
    options = parse(RecordConfig, argv, prog=prog, positional=("action",))
    try_folder("out", options.out)
    if options.action == "begin":
        begin(options.out, options.stage, options.part, int(os.environ.get("VQLOOM_MOST_IDLE", MOST_IDLE)))
    else:
        print(end(options.out, options.stage, options.code, options.part, options.why))
    return 0


if __name__ == "__main__":
    run(main, computes=False)
