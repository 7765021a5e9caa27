"""Which jobs of a chain are to be submitted to SLURM, and submitting them; OUT/jobs.json keeps what was."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.command.cli import UserError, one_line
from launch.files.atomic import write_file
from launch.files.outputs import try_folder
from launch.run import provenance as facts
from launch.stages import records
from launch.stages.jobs import Chain
from launch.stages.listing import ROOT
from launch.stages.resources import ClusterConfig
from launch.stages.stage import Stage
from launch.stages.status import aligned

INPUTS = "inputs.json"
"""In OUT: digests of the files that each stage read, by stage."""


@dataclass
class Row:
    """A line of the job table."""

    stage: Stage
    """The stage."""
    what: str
    """`done`, `running as 12`, or what will be submitted."""
    job: str | None = None
    """The job that does it, if any."""
    command: tuple[str, ...] = ()
    """How it is submitted, if it is."""


def live_jobs(*, needed: bool = True) -> dict[str, str]:
    """Ids of the user's jobs that SLURM still has, running or waiting, with their states.

    Without SLURM, UserError where they are needed, else none.
    """
    line, problem = ["squeue", "--noheader", "--me", "--format=%F %T"], ""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            problem = f"squeue failed: {one_line(done.stderr)}: is SLURM up? --local needs none"
    except FileNotFoundError:
        problem = "squeue is not here: submit on a machine with SLURM, or use --local"
    if problem and needed:
        raise UserError(problem)
    return {} if problem else dict(text.partition(" ")[::2] for text in done.stdout.splitlines())


def sbatch(stage: Stage, config: ClusterConfig, recipe: Path, out: Path, parts: Sequence[int]) -> list[str]:
    """The sbatch line of a stage, without its dependencies. `parts` are the parts of an array job to be done."""
    given, exported = stage.resources, _variables(stage, config, recipe, out)
    options: dict[str, Any] = {
        "job-name": f"{out.name}-{stage.name}",
        "partition": config.partition,
        "account": config.account,
        "nodes": given.nodes,
        "gpus-per-node": given.gpus or None,
        "cpus-per-task": given.cpus,
        "mem": given.memory,
        "time": given.time,
        "signal": f"B:USR1@{config.warn_seconds}",
        "array": ",".join(map(str, parts)) if len(stage.parts) > 1 else None,
        "output": f"{out}/logs/{stage.name}-%j.log",
        "chdir": str(ROOT),
        "export": "ALL," + ",".join(f"{name}={value}" for name, value in exported.items()),
    }
    return [
        *("sbatch", "--parsable", "--kill-on-invalid-dep=yes"),
        *(f"--{name}={value}" for name, value in options.items() if value is not None),
        *(given.options or []),
    ]


def _variables(stage: Stage, config: ClusterConfig, recipe: Path, out: Path) -> dict[str, object]:
    """What launch/slurm/common.sh reads."""
    given = {
        "VQLOOM_ROOT": ROOT,
        "VQLOOM_RECIPE": recipe,
        "VQLOOM_OUT": out,
        "VQLOOM_STAGE": stage.name,
        "VQLOOM_SETUP": config.setup,
        "VQLOOM_SRUN": " ".join(config.srun) or None,
        "VQLOOM_NCCL": config.nccl,
        "VQLOOM_PROCESSES": stage.resources.processes,
        "VQLOOM_PREFLIGHT": int(config.preflight),
        "VQLOOM_MOST_IDLE": config.most_idle,
        "VQLOOM_PARTS": len(stage.parts) if len(stage.parts) > 1 else None,
    }
    for name, value in given.items():
        if "," in str(value):
            raise UserError(f"{name}={value} has a comma, which sbatch's --export doesn't take: choose another path")
    return {name: value for name, value in given.items() if value is not None}


def plan(chosen: Chain, recipe: Path, out: Path, first: str | None, live: dict[str, str]) -> list[Row]:
    """What is to be done for each stage; with `first`, none of the stages that it needs."""
    known = records.jobs(out)
    rows = []
    for stage in chosen.onwards(first) if first else chosen.stages:
        job = str(known.get(stage.name, {}).get("job", ""))
        missing = [part or 0 for part in stage.parts if records.read(out, stage.name, part)["state"] != "done"]
        if job in live:
            rows.append(Row(stage, f"{live[job].lower()} as job {job}", job))
        elif not missing:
            rows.append(Row(stage, "done"))
        else:
            rows.append(Row(stage, "to do", None, tuple(sbatch(stage, chosen.cluster, recipe, out, missing))))
    return rows


def changed_inputs(rows: Sequence[Row], out: Path) -> list[str]:
    """A warning for each finished stage whose recipe or index isn't what it was when the stage was handed out."""
    known = _inputs_before(out)
    warnings = []
    for row in (row for row in rows if row.what == "done"):
        now, before = _inputs(row.stage), known.get(row.stage.name, {})
        if changed := [name for name, digest in now.items() if before and before.get(name) != digest]:
            warnings.append(
                f"warning: {row.stage.name} was done before {', '.join(changed)} changed, and is kept as it is: "
                f"choose another --out to make it anew"
            )
    return warnings


def keep_inputs(rows: Sequence[Row], out: Path) -> None:
    """Note what the stages that are to be done read, for `changed_inputs`."""
    now = {row.stage.name: _inputs(row.stage) for row in rows if row.command}
    write_file(out / INPUTS, json.dumps(_inputs_before(out) | now, indent=1) + "\n")


def _inputs(stage: Stage) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in stage.reads if path.is_file()}


def _inputs_before(out: Path) -> dict[str, dict[str, str]]:
    return json.loads((out / INPUTS).read_text()) if (out / INPUTS).exists() else {}


def submit(rows: Sequence[Row], out: Path) -> None:
    """Submit the planned jobs, each after those it needs, and record every one as soon as it is there."""
    try_folder("out", out)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    keep_inputs(rows, out)
    known = records.jobs(out)
    jobs = {row.stage.name: row.job for row in rows}
    for row in rows:
        if not row.command:
            continue
        before = [jobs[name] for name in row.stage.needs if jobs.get(name)]
        line = [*row.command, *([f"--dependency=afterok:{':'.join(map(str, before))}"] if before else [])]
        line.append(str(ROOT / "launch" / "slurm" / row.stage.script))
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, env=_clean())
        if done.returncode:
            raise UserError(f"sbatch refused {row.stage.name}: {one_line(done.stderr)}: {shlex.join(line)}")
        row.job = jobs[row.stage.name] = done.stdout.strip().partition(";")[0]
        row.what = f"submitted as job {row.job}" + (f" after {', '.join(map(str, before))}" if before else "")
        known[row.stage.name] = {
            "job": row.job,
            "after": before,
            "nodes": row.stage.resources.nodes,
            "parts": len(row.stage.parts),
            "command": line,
            "date": facts.now(),
        }
        write_file(out / records.JOBS, json.dumps({"commit": facts.commit(), "stages": known}, indent=1) + "\n")


def _clean() -> dict[str, str]:
    """This environment without a surrounding job's options, which sbatch would take for its own."""
    own = ("SBATCH_", "SLURM_")
    return {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith(own)}


def print_table(rows: Sequence[Row]) -> None:
    """The job table."""
    cells = [("stage", "nodes", "parts", "job", "what")]
    for row in rows:
        given = row.stage.resources
        cells.append((row.stage.name, str(given.nodes), str(len(row.stage.parts)), row.job or "-", row.what))
    print("\n".join(aligned(cells)))
