"""Runs stages one after the other on this machine and keeps their records; for launch.pipeline and submit --local."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.command import interrupts
from launch.command.cli import UserError
from launch.command.exit_codes import BAD_INPUT, INTERRUPTED, SIGNALLED
from launch.files.outputs import try_folder
from launch.run.folder import lock
from launch.stages import records
from launch.stages.stage import Stage

FORWARDED = (signal.SIGTERM, signal.SIGUSR1)


class Runner:
    """Runs stages into a folder, which it holds locked inside a `with` block; finished ones are reused."""

    def __init__(self, out: Path, name: str, *, keyed: bool):
        """`name` begins each line of output. With `keyed`, only results of the same configuration are reused."""
        self.out, self.name, self.keyed = out, name, keyed
        self.worked = False
        """Whether any stage had to be run."""

    def __enter__(self) -> Runner:
        try_folder("out", self.out)
        self._lock = lock(self.out)
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    def say(self, text: str) -> None:
        """A line of its own, apart from the stages' output."""
        print(f"{self.name}: {text}", flush=True)

    def run(self, stages: Sequence[Stage], of: int) -> int:
        """Run every stage that isn't done; 0, or the exit code of the one that failed. `of` is the number of steps."""
        chain: str | None = None
        for number, stage in enumerate(stages, 1):
            chain = key(stage, self.out, chain or "") if self.keyed else None
            heading = f"[{number}/{of}] {stage.title}"
            if is_done(stage, self.out, chain):
                same = " with the same configuration" if self.keyed else ""
                self.say(f"{heading}: reused, it was done earlier{same}")
                continue
            self.say(f"{heading}: {shlex.join(command(stage)[1:])}")
            self.worked = True
            if code := self._do(stage, chain):
                self.say(f"stopped: the {stage.name} stage {_ended(code)}")
                return code
            if interrupts.asked():
                self.say(f"stopped by Ctrl-C after the {stage.name} stage; rerun the same command to go on")
                return INTERRUPTED
        return 0

    def _do(self, stage: Stage, wanted: str | None) -> int:
        """Run a stage and keep its record; its exit code."""
        for path in stage.makes:
            path.parent.mkdir(parents=True, exist_ok=True)
        records.begin(self.out, stage.name, most_idle=None, key=wanted, command=command(stage)[1:])
        code = _run(command(stage))
        if code == 0 and (missing := [path for path in stage.makes if not path.exists()]):
            self.say(f"the {stage.name} stage ended without an error but did not write {missing[0]}")
            code = 1
        records.end(self.out, stage.name, code)
        return code


def command(stage: Stage) -> list[str]:
    """The stage's command line: training through accelerate launch, whatever the number of ranks."""
    if stage.processes > 1 or stage.trains or stage.module.endswith(".train"):
        start = ["-m", "launch.local", "--processes", str(stage.processes), stage.module]
    else:
        start = ["-m", stage.module]
    return [sys.executable, *start, *stage.arguments_of()]


def key(stage: Stage, out: Path, before: str) -> str:
    """A hash of all that decides a stage's result: options, ranks, what its files hold, and the stages before it.

    The output folder itself has no part in it: a finished folder can be moved.
    """
    digest = hashlib.sha256(before.encode())
    options = [word.replace(str(out), "OUT") for word in stage.arguments_of() if word not in map(str, stage.reads)]
    digest.update(json.dumps([stage.module, stage.processes, options]).encode())
    for path in stage.reads:
        digest.update(_content(path))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    """A file's bytes; a recipe's settings under their former names, so that results from before are still reused."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): check the path") from error
    if path.suffix == ".yaml":
        content = re.sub(rb"beta1: (\S+)\n +beta2: (\S+)", rb"betas: [\1, \2]", content)
    if path.name == "prior.yaml":
        content = re.sub(rb"\bwarmup: ", b"warmup_steps: ", content)
    return content


def is_done(stage: Stage, out: Path, wanted: str | None) -> bool:
    """Whether a stage's result is there and, with a key, of this configuration.

    Raises UserError where it began with another one: nothing is overwritten without being asked. A stage that only
    refused its input may begin again with a mended one.
    """
    record = records.read(out, stage.name)
    other = wanted is not None and records.path(out, stage.name).exists() and record.get("key") != wanted
    if other and not _only_refused(stage, record):
        raise UserError(
            f"out={out} holds the {stage.name} stage of another configuration (options, recipe, data or processes "
            f"differ): choose another --out, or delete that folder"
        )
    return record["state"] == "done" and all(path.exists() for path in stage.makes)


def _only_refused(stage: Stage, record: dict[str, Any]) -> bool:
    """Whether all attempts at a stage ended with exit code 2 and wrote nothing beside its results."""
    refused = {attempt.get("code") for attempt in record["attempts"]} == {BAD_INPUT}
    return refused and not any(any(path.parent.glob("*")) for path in stage.makes)


def _run(line: list[str]) -> int:
    """A child process that gets our SIGTERM and SIGUSR1; its exit code, as a shell would give it."""
    child: subprocess.Popen[bytes] | None = None

    def press() -> None:
        """Ctrl-C is the child's to answer, even where it has just ended; without one it ends this command."""
        if not interrupts.to_children(interrupts.HANDED_ON) and child is None:
            raise KeyboardInterrupt

    with interrupts.asking(press):
        child = subprocess.Popen(line)
        before = {number: signal.signal(number, lambda sent, _: child.send_signal(sent)) for number in FORWARDED}
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code == -interrupts.HANDED_ON and interrupts.asked():  # before it could answer
        return INTERRUPTED
    return code if code >= 0 else SIGNALLED - code


def _ended(code: int) -> str:
    if code == BAD_INPUT:
        return "refused its input, as it says above"
    how = "was interrupted" if code == INTERRUPTED else f"ended with exit code {code}"
    return f"{how}; rerun the same command to resume"
