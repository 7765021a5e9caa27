"""Checks every node before a job computes: shared files, code, packages, GPUs, shards; one line for what is wrong.

python -m launch.slurm.preflight begin --folder F                      # on the first node: leave a token
python -m launch.slurm.preflight look --folder F --gpus 8 --recipe R --out OUT --stage S      # on every node, by srun
python -m launch.slurm.preflight compare --folder F --nodes n1,n2      # on the first node: 0, or 2 and the reason
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch.command.cli import UserError, one_line, parse, run
from launch.files.atomic import write_file
from launch.files.outputs import try_folder
from launch.run.provenance import commit, versions
from launch.stages import jobs as chain

TOKEN = "token"

GPU_QUERY = ("index", "name", "ecc.errors.uncorrected.volatile.total", "remapped_rows.failure")


@dataclass(frozen=True)
class PreflightConfig:
    """Look at every node before a job computes; the batch scripts call it."""

    action: Literal["begin", "look", "compare"]
    """The first word."""
    folder: Path
    """Where the nodes write their reports."""
    gpus: int = 0
    """look: GPUs that the node must have."""
    recipe: Path | None = None
    """look: the recipe whose shards must be there."""
    out: Path | None = None
    """look: the chain's folder."""
    stage: str | None = None
    """look: the stage that will run."""
    nodes: str = ""
    """compare: names of the job's nodes, separated by commas."""


def begin(folder: Path) -> None:
    """Leave a token that every node must find. UserError where the folder can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.json"):
            old.unlink()
        write_file(folder / TOKEN, secrets.token_hex(16))
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error}): let VQLOOM_OUT lie where jobs may write") from None


def look(folder: Path, gpus: int, indexes: Sequence[str]) -> None:
    """Write what this node sees to the shared folder; `compare` checks it."""
    node = os.environ.get("SLURMD_NODENAME", os.uname().nodename)
    report: dict[str, Any] = {"node": node, "commit": commit(), "versions": versions(), "problems": []}
    try:
        report["token"] = (folder / TOKEN).read_text()
    except OSError:
        # Reported as a node without a report, for what this node writes the others can't read either.
        raise UserError(f"node {node} doesn't see {folder}: let VQLOOM_OUT lie on a shared file system") from None
    report["problems"] += gpu_problems(gpus)
    report["problems"] += [problem for index in indexes if (problem := index_problem(index))]
    write_file(folder / f"{node}.json", json.dumps(report, indent=1))


def gpu_problems(wanted: int) -> list[str]:
    """What is wrong with this node's GPUs: too few, memory errors, or a computation that fails."""
    if wanted == 0:
        return []
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"nvidia-smi doesn't answer ({error})"]
    if done.returncode:
        return [f"nvidia-smi failed: {one_line(done.stdout + done.stderr)}"]
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    problems = [f"{len(rows)} GPUs instead of {wanted}"] if len(rows) < wanted else []
    for index, name, errors, remapped in (row for row in rows if len(row) == len(GPU_QUERY)):
        if errors.isdigit() and int(errors):
            problems.append(f"GPU {index} ({name}) has {errors} uncorrected memory errors")
        if remapped.lower() in ("1", "yes"):
            problems.append(f"GPU {index} ({name}) can't remap its bad memory rows any more")
    return problems or _gpu_computation()


def _gpu_computation() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return ["torch finds no GPU that it can use"]
    problems = []
    for number in range(torch.cuda.device_count()):
        try:
            ones = torch.ones(256, 256, device=f"cuda:{number}")
            if float((ones @ ones).sum()) != 256.0**3:
                problems.append(f"GPU {number} computes wrongly")
        except RuntimeError as error:
            problems.append(f"GPU {number} fails: {one_line(error, 200)}")
    return problems


def index_problem(path: str) -> str | None:
    """Why an index or one of its shards can't be read from this node, or None."""
    line = [sys.executable, "-m", "data.shards.check", path]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines() or [f"data.shards.check ended with exit code {done.returncode}"]
    return f"shards: {said[-1].removeprefix('error: ')}"


def compare(folder: Path, nodes: Sequence[str]) -> None:
    """Check the nodes' reports. UserError with the first thing that is wrong, and on which node."""
    token = (folder / TOKEN).read_text()
    reports: dict[str, dict[str, Any]] = {}
    for node in nodes:
        try:
            reports[node] = json.loads((folder / f"{node}.json").read_text())
        except OSError:
            raise UserError(
                f"preflight: node {node} left no report in {folder}: the file system isn't shared by all nodes, or "
                "Python doesn't start there (the lines above tell)"
            ) from None
        if reports[node].get("token") != token:
            raise UserError(f"preflight: node {node} sees another {folder} than this one: use a shared file system")
    for node, report in reports.items():
        if report["problems"]:
            raise UserError(f"preflight: node {node}: {'; '.join(report['problems'])}")
    first, *others = reports.values()
    for other in others:
        if other["commit"] != first["commit"]:
            raise UserError(
                f"preflight: node {other['node']} has commit {other['commit']}, node {first['node']} "
                f"{first['commit']}: let all nodes use one checkout"
            )
        for name in sorted(first["versions"].keys() | other["versions"].keys()):
            here, there = (report["versions"].get(name, "none") for report in (first, other))
            if here != there:
                raise UserError(
                    f"preflight: node {other['node']} has {name} {there}, node {first['node']} {here}: "
                    "let all nodes use one environment"
                )


def main(argv: Sequence[str] | None = None) -> int:
    """The command that the batch scripts call."""
    prog = "python -m launch.slurm.preflight begin|look|compare"
    options = parse(PreflightConfig, argv, prog=prog, positional=("action",))
    if options.action == "begin":
        try_folder("folder", options.folder)
        begin(options.folder)
    elif options.action == "compare":
        compare(options.folder, options.nodes.split(","))
    else:
        indexes: Sequence[str] = ()
        if options.recipe and options.out and options.stage:
            stage = chain.read(options.recipe, options.out).stage(options.stage)
            indexes = [str(path) for path in stage.reads if path.suffix == ".json"]
        look(options.folder, options.gpus, indexes)
    return 0


if __name__ == "__main__":
    run(main)
