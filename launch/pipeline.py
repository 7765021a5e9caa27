"""Run the pipeline's stages one after the other, reusing what is finished: `python -m launch.pipeline --data mnist`."""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from launch import report
from launch.command.cli import UserError, parse, run
from launch.command.exit_codes import BAD_INPUT
from launch.files.atomic import write_atomically
from launch.run import provenance as facts
from launch.run.folder import lock
from launch.stages.listing import PipelineConfig, Stage, stages

FORWARDED = (signal.SIGTERM, signal.SIGUSR1)

OF_SAMPLES = (
    *("class_agreement", "class_agreement_by_class", "real_accuracy", "real_samples", "classifier"),
    *("frechet_vgg16", "kid_vgg16", "precision_vgg16", "recall_vgg16"),
)
"""Figures of the prior's evaluation that tell of the samples."""


def pipeline(config: PipelineConfig) -> int:
    """Do every stage that isn't done, write metrics.json and the report; 0, or a failed stage's exit code."""
    out = config.folder
    todo = stages(config)
    with lock(out):
        chain, worked = "", False
        for number, stage in enumerate(todo, 1):
            chain = key(stage, out, chain)
            heading = f"[{number}/{len(todo) + 1}] {stage.title}"
            if is_done(stage, out, chain):
                say(f"{heading}: reused, it was done earlier with the same configuration")
                continue
            say(f"{heading}: {shlex.join(command(stage)[1:])}")
            worked = True
            if code := do(stage, out, chain):
                say(failure(stage, code))
                return code
        say(f"[{len(todo) + 1}/{len(todo) + 1}] write the report")
        if worked or not (out / "metrics.json").exists():  # else date and commit stay those of the work
            write_atomically(out / "metrics.json", json.dumps(collect(config, todo), indent=2) + "\n")
        page = report.write(out)
    say(f"done, report at {page}")
    return 0


def say(text: str) -> None:
    """A line of the pipeline's own, apart from its stages' output."""
    print(f"quickstart: {text}", flush=True)


def failure(stage: Stage, code: int) -> str:
    """What to tell when a stage ended with another exit code than 0."""
    if code == BAD_INPUT:
        return f"stopped: the {stage.name} stage refused its input, as it says above"
    return f"stopped: the {stage.name} stage ended with exit code {code}; the same command again goes on from there"


def command(stage: Stage) -> list[str]:
    """The stage's command line: training through accelerate launch, whatever the number of ranks."""
    if stage.processes > 1 or stage.module.endswith(".train"):
        start = ["-m", "launch.local", "--processes", str(stage.processes), stage.module]
    else:
        start = ["-m", stage.module]
    return [sys.executable, *start, *stage.arguments]


def key(stage: Stage, out: Path, before: str) -> str:
    """A hash of all that decides a stage's result: options, ranks, what its files hold, and the stages before it.

    The output folder itself has no part in it: a finished folder can be moved.
    """
    digest = hashlib.sha256(before.encode())
    options = [
        argument.replace(str(out), "OUT") for argument in stage.arguments if argument not in map(str, stage.reads)
    ]
    digest.update(json.dumps([stage.module, stage.processes, options]).encode())
    for path in stage.reads:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def record_path(stage: Stage, out: Path) -> Path:
    """Where a stage's record lies."""
    return out / "stages" / f"{stage.name}.json"


def record(stage: Stage, out: Path) -> dict[str, Any] | None:
    """What is known of a stage: {"key", "done", "seconds", "date", "command"}; None if it never began."""
    path = record_path(stage, out)
    return json.loads(path.read_text()) if path.exists() else None


def is_done(stage: Stage, out: Path, wanted: str) -> bool:
    """Whether a stage's result is there and of this configuration.

    Raises UserError where it began with another one: nothing is overwritten without being asked.
    """
    known = record(stage, out)
    if known is None:
        return False
    if known["key"] != wanted:
        raise UserError(
            f"out={out} holds the {stage.name} stage of another configuration (options, recipe, data or processes "
            f"differ): choose another --out, or delete that folder"
        )
    return bool(known["done"]) and all(path.exists() for path in stage.makes)


def do(stage: Stage, out: Path, wanted: str) -> int:
    """Run a stage and keep its record; its exit code. Seconds of interrupted attempts count."""
    earlier = (record(stage, out) or {}).get("seconds", 0.0)
    entry = {"key": wanted, "done": False, "seconds": earlier, "date": facts.now(), "command": command(stage)[1:]}
    path = record_path(stage, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    for made in stage.makes:
        made.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(entry, indent=1))
    began = time.monotonic()
    code = _run(command(stage))
    entry["seconds"] = round(earlier + time.monotonic() - began, 1)
    if code == 0 and (missing := [made for made in stage.makes if not made.exists()]):
        say(f"the {stage.name} stage ended well but did not write {missing[0]}")
        code = 1
    entry["done"] = code == 0
    write_atomically(path, json.dumps(entry, indent=1))
    return code


def _run(line: list[str]) -> int:
    """A child process that gets our SIGTERM and SIGUSR1; its exit code, as a shell would give it."""
    child = subprocess.Popen(line)

    def forward(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        code = child.wait()
    except KeyboardInterrupt:  # the terminal sends it to the child as well
        child.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def collect(config: PipelineConfig, done: list[Stage]) -> dict[str, Any]:
    """The content of metrics.json."""
    out = config.folder
    records = {stage.name: record(stage, out) or {} for stage in done}
    tokenizer = json.loads((out / "evaluation" / "tokenizer.json").read_text())
    prior = json.loads((out / "evaluation" / "prior.json").read_text())
    samples = {name: prior.pop(name) for name in OF_SAMPLES if name in prior}
    samples["count"] = prior.pop("samples", None)
    seconds = {name: entry.get("seconds") for name, entry in records.items()}
    masked = {"masked": json.loads((out / "evaluation" / "prior-masked.json").read_text())} if config.masked else {}
    return {
        "tokenizer": tokenizer,
        "prior": prior,
        "samples": samples,
        **masked,
        "seconds": {**seconds, "total": round(sum(value or 0 for value in seconds.values()), 1)},
        "setup_seconds": setup_seconds(),
        "data": config.data,
        "processes": config.processes,
        "short": config.short,
        "commit": facts.commit(),
        "hardware": facts.hardware(),
        "versions": facts.versions(),
        "date": facts.now(),
    }


def setup_seconds(venv: Path = Path(sys.prefix)) -> int | None:
    """How long launch/setup.sh took to make this environment; None where something else made it."""
    stamp = venv / ".vqloom-setup"
    words = stamp.read_text().split() if stamp.exists() else []
    return int(words[words.index("seconds") + 1]) if "seconds" in words else None


def main() -> int:
    """The command."""
    return pipeline(parse(PipelineConfig, prog="python -m launch.pipeline"))


if __name__ == "__main__":
    run(main)
