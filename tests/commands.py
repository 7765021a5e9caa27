"""The table of all commands: how each is called on sound inputs, what it reads and what it writes.

A new command without an entry fails tests/test_commands.py, which tries every output and every input in it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.command.cli import run
from tests.stage1_tokenizer import tiny
from tests.stage2_prior.tiny import write_pictures, write_tokenizer
from tests.stage2_prior.unified.exported import write_unified
from tests.stage2_prior.unified.tiny import write_texts


@dataclass(frozen=True)
class Command:
    """A command and its files. Values that begin with `@` are paths in the world of sound files, with `>` new ones."""

    options: Mapping[str, str]
    """What is given, by option (or by position: 1, 2, …)."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """Options that name inputs, with their kinds (tests/test_commands.py lists what is wrong for each)."""
    writes: Mapping[str, str] = field(default_factory=dict)
    """Options that name outputs: file, folder, or new (a folder that must not exist yet)."""
    small: tuple[str, ...] = ()
    """Outputs that fit on a nearly full disk, or are another command's."""
    first: bool = True
    """Whether its outputs are tried before its inputs are opened at all."""


TINY_RUN = {f"--{name}": value for name, value in tiny.OPTIONS.items()} | {
    "--data.index": "@pictures/index.json",
    "--data.held_out": "@held_out/index.json",
    "--steps": "2",
    "--run.folder": ">run",
}
PRIOR_RUN = {
    "--run.folder": ">run",
    "--data.index": "@codes/index.json",
    "--data.held_out": "@held_out_codes/index.json",
    "--data.batch_size": "8",
    "--tokenizer": "@tokenizer",
    "--model.layers": "1",
    "--model.width": "16",
    "--model.heads": "2",
    "--run.trackers": "[]",
    "--steps": "2",
}
SAMPLING = {"--prior": "@prior", "--tokenizer": "@tokenizer", "--out": ">samples", "--count": "1", "--batch_size": "3"}
CHAIN = {"--recipe": "@recipe", "--out": ">chain"}

TABLE: dict[str, Command] = {
    "data.pack": Command(
        {"1": "@source", "2": ">set", "--kind": "folder", "--processes": "1"},
        {"1": "pictures"},
        {"2": "folder"},
    ),
    "data.index": Command(
        {"1": "@pictures/pictures-000000.tar", "2": ">set/index.json", "--classes": "@names.txt"},
        {"1": "tar", "--classes": "text"},
        {"2": "file"},
        small=("2",),
    ),
    "data.inspect": Command(
        {
            "1": "@pictures/index.json",
            "--verify": "true",
            "--report": ">found.json",
            "--contact_sheet": ">sheet.png",
            "--processes": "1",
        },
        {"1": "any index"},
        {"--report": "file", "--contact_sheet": "file"},
        small=("--report",),
    ),
    "data.simulate": Command({"--shards": "10", "--ranks": "2"}),
    "data.shards.check": Command({"1": "@pictures/index.json"}, {"1": "any index"}),
    "data.samples.build": Command(
        {"--out": ">sets", "--packages": "@empty"}, {"--packages": "other"}, {"--out": "folder"}
    ),
    "stage1_tokenizer.train": Command(
        {**TINY_RUN, "--init": "none"},
        {"--data.index": "index", "--data.held_out": "index", "--init": "tokenizer", "--config": "yaml"},
        {"--run.folder": "folder"},
    ),
    "stage1_tokenizer.evaluate": Command(
        {
            "--tokenizer": "@tokenizer",
            "--data": "@held_out/index.json",
            "--out": ">e.json",
            "--pictures": ">e.png",
            "--lpips": "false",
            "--features": "none",
        },
        {"--tokenizer": "tokenizer", "--data": "index"},
        {"--out": "file", "--pictures": "file"},
        small=("--out",),
    ),
    "stage1_tokenizer.reconstruct": Command(
        {"1": "@picture.png", "--tokenizer": "@tokenizer", "--out": ">pages", "--lpips": "false"},
        {"1": "picture", "--tokenizer": "tokenizer"},
        {"--out": "new"},
    ),
    "stage1_tokenizer.convert": Command(
        {"1": "@tokenizer", "2": ">converted", "--to": "diffusers"},
        {"1": "tokenizer"},
        {"2": "new"},
    ),
    "stage1_tokenizer.release": Command(
        {"1": "@run", "2": ">released", "--licence": "mit"},
        {"1": "run", "--metrics": "result"},
        {"2": "new"},
    ),
    "stage1_tokenizer.compare": Command(
        {
            "--recipe": "@recipe/tokenizer.yaml",
            "--train": "@pictures/index.json",
            "--held_out": "@held_out/index.json",
            "--out": ">comparison",
            "--variants": "vqgan",
            "--steps": "12",
            "--lpips": "false",
        },
        {"--recipe": "yaml"},
        {"--out": "folder"},
        small=("--out",),  # the training is the one to meet it
    ),
    "stage1_tokenizer.hub": Command({"1": "@released", "2": "org/name"}, {"1": "released"}),
    "stage2_prior.encode": Command(
        {"--tokenizer": "@tokenizer", "--data": "@pictures/index.json", "--out": ">codes", "--batch_size": "8"},
        {"--tokenizer": "tokenizer", "--data": "index"},
        {"--out": "folder"},
    ),
    "stage2_prior.documents": Command(
        {"1": "@documents.jsonl", "2": ">documents", "--codes": "@codes/index.json"},
        {"1": "jsonl", "--codes": "codes"},
        {"2": "folder"},
    ),
    "stage2_prior.text_tokenizer": Command(
        {"--data": "@texts/index.json", "--out": ">t.json"}, {"--data": "texts"}, {"--out": "file"}, small=("--out",)
    ),
    "stage2_prior.codes.shares": Command({"--out": "@parts", "--parts": "1"}, {"--out": "other"}),
    "stage2_prior.train": Command(
        PRIOR_RUN,
        {"--data.index": "codes", "--data.held_out": "codes", "--tokenizer": "tokenizer", "--config": "yaml"},
        {"--run.folder": "folder"},
    ),
    "stage2_prior.redraw": Command(
        {"--prior": "@prior", "--codes": "@codes/index.json", "--out": ">redrawn", "--batch_size": "8"},
        {"--prior": "prior", "--codes": "codes"},
        {"--out": "folder"},
    ),
    "stage2_prior.sample": Command(
        SAMPLING,
        {"--prior": "prior", "--tokenizer": "tokenizer", "--prompts": "text"},
        {"--out": "folder"},
        small=("--out",),
    ),
    "stage2_prior.describe": Command(
        {"1": "@picture.png", "--prior": "@unified", "--tokenizer": "@tokenizer", "--out": ">described"},
        {"1": "picture", "--prior": "prior", "--tokenizer": "tokenizer"},
        {"--out": "new"},
        small=("--out",),
    ),
    "stage2_prior.write": Command(
        {"--prior": "@unified", "--out": ">w.json"},
        {"--prior": "prior", "--prompts": "text"},
        {"--out": "file"},
        small=("--out",),
    ),
    "stage2_prior.inpaint": Command(
        {**SAMPLING, "--given": "@picture.png", "--keep": "top", "--classes": "circle"},
        {"--given": "picture", "--mask": "picture", "--prior": "prior", "--tokenizer": "tokenizer"},
        {"--out": "folder"},
        small=("--out",),
    ),
    "stage2_prior.evaluate": Command(
        {"--prior": "@prior", "--codes": "@held_out_codes/index.json", "--out": ">e.json"},
        {"--prior": "prior", "--codes": "codes", "--tokenizer": "tokenizer"},
        {"--out": "file"},
        small=("--out",),
    ),
    "stage2_prior.release": Command(
        {"--prior": "@prior-run", "--out": ">released", "--licence": "mit"},
        {"--prior": "run", "--metrics": "result", "--tokenizer": "tokenizer"},
        {"--out": "new"},
    ),
    "stage2_prior.demo": Command({"--tokenizer": "@tokenizer"}, {"--tokenizer": "tokenizer", "--prior": "prior"}),
    "launch.local": Command({"1": "data.simulate"}),
    "launch.pipeline": Command(
        {"--data": "mnist", "--short": "true", "--out": ">all"},
        {"--recipe": "recipe folder", "--train": "path"},
        {"--out": "folder"},
        first=False,
    ),
    "launch.submit": Command(
        {"1": "@recipe", "--out": ">chain", "--local": "true"}, {"1": "recipe"}, {"--out": "folder"}, first=False
    ),
    "launch.status": Command({"1": "@run"}, {"1": "other"}),
    "launch.report": Command({"1": "@run", "--out": ">r.html"}, {"1": "shown run"}, {"--out": "file"}),
    "launch.checkpoint": Command(
        {"1": "@run", "--export": ">weights"}, {"1": "run folder"}, {"--export": "folder"}, first=False
    ),
    "launch.slurm.finish": Command(CHAIN, {"--recipe": "recipe"}, {"--out": "folder"}, small=("--out",)),
    "launch.slurm.preflight": Command(
        {"1": "begin", "--folder": ">nodes"}, {}, {"--folder": "folder"}, small=("--folder",)
    ),
    "launch.stages.records": Command(
        {"1": "begin", "--out": ">chain", "--stage": "tokenizer"}, {}, {"--out": "folder"}, small=("--out",)
    ),
}

NOT_HERE = {
    "launch.slurm.speeds": "measures the network between the nodes of a SLURM job; reads and writes no files",
    "launch.slurm.node": "starts ranks by accelerate; launch.local has the same launcher",
    "launch.command.exit_codes": "reads and writes nothing",
    "launch.setup_env": "writes into the environment that the tests run in",
}


def words(command: Command, world: Path, place: Path, **changed: str | None) -> list[str]:
    """The command line, with options replaced (None: left out); inputs in `world`, outputs in `place`."""
    given = {**command.options, **changed}
    found: list[str] = []
    for key in sorted(given, key=lambda key: (not key.isdigit(), key) if key.isdigit() else (True, "")):
        value = given[key]
        if value is None:
            continue
        value = str(world / value[1:]) if value[:1] == "@" else str(place / value[1:]) if value[:1] == ">" else value
        found += [value] if key.isdigit() else [f"{key}={value}"]
    return found


def call(module: str, line: list[str]) -> tuple[int, list[str]]:
    """Run a command in this process; its exit code, and what it said on stderr but for its progress and notes."""
    before, said = sys.argv, io.StringIO()
    sys.argv = [module, *line]
    try:
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            run(importlib.import_module(module).main)
    finally:
        sys.argv = before
    lines = [text for text in said.getvalue().splitlines() if text.strip()]
    return int(ended.value.code or 0), [text for text in lines if not re.match(r"[\w ]+: \d+(/\d+)? |note: ", text)]


def make_world(place: Path) -> Path:
    """Everything that the commands of the table read, as it should be."""
    write_pictures(place / "pictures", shards=2, each=9)
    write_pictures(place / "held_out", shards=1, each=9, seed=1)
    (place / "documents.jsonl").write_text('{"segments": ["a text ", {"sample": "00_000"}, " and more"]}\n')
    write_texts(place / "texts", [f"a text of {number} words" for number in range(8)])
    write_tokenizer(place / "tokenizer")
    (place / "empty").mkdir()
    (place / "names.txt").write_text("circle\nsquare\nstar\n")
    for name in ("circle", "square"):
        (place / "source" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "source" / name / f"{number}.png")
    shutil.copy(place / "source" / "circle" / "0.png", place / "picture.png")
    (place / "recipe").mkdir()
    for name in ("tokenizer", "prior"):
        shutil.copy(tiny.ROOT / "launch" / "recipes" / "mnist" / f"{name}.yaml", place / "recipe")
    for module, into in (
        ("stage1_tokenizer.train", {"--run.folder": "@run"}),
        ("stage2_prior.encode", {"--out": "@codes"}),
        ("stage2_prior.encode", {"--out": "@held_out_codes", "--data": "@held_out/index.json"}),
        ("stage2_prior.encode", {"--out": "@parts", "--part": "0", "--parts": "1"}),
        ("stage2_prior.train", {"--run.folder": "@prior-run"}),
        ("stage1_tokenizer.evaluate", {"--out": "@result.json", "--pictures": None}),
    ):
        code, said = call(module, words(TABLE[module], place, place, **into))
        assert code == 0, said
    shutil.copytree(place / "prior-run" / "prior", place / "prior")
    write_unified(place / "unified", str(place / "codes" / "index.json"))
    return place
