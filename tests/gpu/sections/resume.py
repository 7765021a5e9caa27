"""Section 5: a training that was interrupted ends with the very bits of one that wasn't, on the device."""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from pathlib import Path

from launch.checkpoints import folders
from tests.gpu.sections.bench import ROOT, Bench
from tests.gpu.sections.commands import Forked, command
from tests.stage1_tokenizer import tiny
from tests.stage2_prior.tiny import write_pictures, write_tokenizer

STEPS = 8


def resume(bench: Bench) -> None:
    """Both stages: 8 steps at once beside 4 and 4 in two processes, all at the same time."""
    with bench.folder() as folder:
        jobs = {}
        for stage, words in (("tokenizer", tokenizer_words()), ("prior", prior_words(folder))):
            jobs[stage] = [
                Forked(partial(training, stage, [*words, f"--run.folder={folder / stage}-{name}"], steps))
                for name, steps in (("at-once", (STEPS,)), ("in-two", (STEPS // 2, STEPS)))
            ]
        for stage, running in jobs.items():
            codes = [one.wait() for one in running]
            bench.part("resume", stage, partial(compared, bench, folder, stage, codes))


def compared(bench: Bench, folder: Path, stage: str, codes: list[int]) -> None:
    """A row: whether the last checkpoints hold the same bytes."""
    if any(codes):
        raise RuntimeError(f"the trainings ended with {codes}")
    once, twice = (digests(folder / f"{stage}-{name}") for name in ("at-once", "in-two"))
    other = [name for name in once if once[name] != twice.get(name)]
    bench.row("resume", stage, files=len(once), same_bits=not other, differing=", ".join(other) or "none")
    if other:
        raise AssertionError(f"{stage}: {', '.join(other)} differ after resuming")


def digests(run: Path) -> dict[str, str]:
    """sha256 of each file of a run's last checkpoint that holds tensors."""
    place = run / folders.FOLDER / f"{folders.PREFIX}{STEPS:09d}"
    files = [path for path in sorted(place.iterdir()) if path.suffix in (".pt", ".safetensors")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def training(stage: str, words: list[str], steps: tuple[int, ...]) -> None:
    """Train up to each of the numbers of steps, each time in a new process."""
    for until in steps:
        line = [*words, f"--steps={until}"]
        code = Forked(lambda line=line: command(TRAININGS[stage], line)).wait()  # type: ignore[misc]
        if code:
            sys.exit(f"training {stage} to step {until} ended with {code}")


TRAININGS = {"tokenizer": "stage1_tokenizer.train", "prior": "stage2_prior.train"}

COMMON = ["--run.deterministic=true", "--run.trackers=[]", "--run.save_every=4", "--run.log_every=1"]
"""Deterministic kernels. Warm-up and a constant rate don't depend on the last step, so that runs may stop earlier."""


def tokenizer_words() -> list[str]:
    """A tiny tokenizer on the digits that ship with the project, with every kind of state."""
    changes = {"optimizer.decay": "constant", "optimizer.warmup": "3", "evaluate_samples": "8"}
    left = {name: value for name, value in tiny.OPTIONS.items() if not name.startswith("run.") and name != "steps"}
    given = {**left, **changes, "data.index": str(ROOT / tiny.TRAIN), "data.held_out": str(ROOT / tiny.HELD_OUT)}
    return [f"--{name}={value}" for name, value in given.items()] + COMMON


def prior_words(folder: Path) -> list[str]:
    """A tiny prior over the codes of an untrained tokenizer."""
    pictures, tokenizer = write_pictures(folder / "pictures", shards=1, each=24), write_tokenizer(folder / "tokenizer")
    words = [f"--tokenizer={tokenizer}", f"--data={pictures}", f"--out={folder / 'codes'}", "--batch_size=8"]
    if Forked(lambda: command("stage2_prior.encode", words)).wait():
        raise RuntimeError("encoding failed")
    given = {"data.index": folder / "codes" / "index.json", "tokenizer": tokenizer, "data.batch_size": 8}
    given |= {"model.layers": 2, "model.width": 32, "model.heads": 2, "optimizer.decay": "constant"}
    return [f"--{name}={value}" for name, value in given.items()] + COMMON + ["--run.allow_changes=[steps]"]
