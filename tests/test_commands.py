"""Every command × every output that can't be written, and every input that can't be read or is of another kind.

Each gives one line on stderr and exit code 2, and writes nothing. tests/commands.py has the table.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.command.exit_codes import BAD_INPUT, SIGNALLED
from tests.commands import NOT_HERE, TABLE, call, make_world, words
from tests.data.making import jpeg
from tests.imports import MODULES, ROOT
from tests.stage1_tokenizer import tiny


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sound files of every kind; the commands are called beside them."""
    before = Path.cwd()
    os.chdir(ROOT)
    made = make_world(tmp_path_factory.mktemp("world"))
    yield made
    os.chdir(before)


def test_every_command_is_in_the_table() -> None:
    known = {module for module, path in MODULES.items() if '__name__ == "__main__"' in path.read_text()}
    assert known == TABLE.keys() | NOT_HERE.keys()


def refused(module: str, line: list[str], *names: str) -> str:
    """Run a command that must refuse something in one line; the line, which names one of `names`."""
    code, said = call(module, line)
    assert code == BAD_INPUT, (code, said)
    assert len(said) == 1 and said[0].startswith("error: ") and len(said[0]) < 1000, said
    assert any(name in said[0] for name in names), said
    return said[0]


def snapshot(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


# Outputs


def below_a_file(place: Path) -> Path:
    (place / "file").write_text("a file")
    return place / "file" / "out"


def behind_a_dead_link(place: Path) -> Path:
    (place / "link").symlink_to(place / "nowhere")
    return place / "link" / "out"


def of_the_other_kind(place: Path) -> Path:
    (place / "out").write_text("a file")
    return place / "out"


def with_a_long_name(place: Path) -> Path:
    return place / ("x" * 300)


def in_proc(_: Path) -> Path:
    """Where nobody can make files, root neither."""
    return Path("/proc/self/out")


PLACES: list[Callable[[Path], Path]] = [below_a_file, behind_a_dead_link, of_the_other_kind, with_a_long_name, in_proc]
OUTPUTS = [(module, key) for module, command in TABLE.items() for key in command.writes]


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
@pytest.mark.parametrize(("module", "key"), OUTPUTS)
def test_an_output_that_cannot_be_written(
    module: str, key: str, make: Callable[[Path], Path], world: Path, tmp_path: Path
) -> None:
    command, place = TABLE[module], make(tmp_path)
    if make is of_the_other_kind and command.writes[key] == "file":
        place.unlink()
        place.mkdir()
    before = snapshot(tmp_path)
    # Inputs that aren't there show that outputs come first.
    gone = {k: "@gone" for k in command.reads if k in command.options} if command.first else {}
    line = words(command, world, tmp_path / "others", **{**gone, key: str(place)})
    refused(module, line, str(place), key.lstrip("-") + "=")
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "others").exists()


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many bytes: a real one where this user may mount, else the tests here are skipped."""
    mounted: list[Path] = []

    def make(size: int) -> Path:
        place = tmp_path_factory.mktemp("disk")
        line = ["mount", "-t", "tmpfs", "-o", f"size={max(4096, size)}", "tmpfs", str(place)]
        if subprocess.run(line, capture_output=True, check=False).returncode:
            pytest.skip("mounting needs root; the limit on the size of files has its own test")
        mounted.append(place)
        if size == 0:
            (place / "full").write_bytes(bytes(4096))
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.parametrize(("module", "key"), OUTPUTS)
def test_a_disk_that_is_full_before(
    module: str, key: str, world: Path, full_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    command, disk = TABLE[module], full_disk(0)
    gone = {k: "@gone" for k in command.reads if k in command.options} if command.first else {}
    line = words(command, world, tmp_path, **{**gone, key: str(disk / "out")})
    told = refused(module, line, str(disk / "out"))
    assert "No space left on device" in told
    assert [path.name for path in disk.iterdir()] == ["full"]


@pytest.mark.parametrize(
    ("module", "key"), [one for one in OUTPUTS if one[1] not in TABLE[one[0]].small and TABLE[one[0]].first]
)
def test_a_disk_that_runs_full(
    module: str, key: str, world: Path, full_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    disk = full_disk(8192)
    line = words(TABLE[module], world, tmp_path, **{key: str(disk / "out")})
    code, said = call(module, line)
    assert code == BAD_INPUT, said
    assert len(said) == 1 and str(disk / "out") in said[0] and "No space left on device" in said[0], said
    left = [path for path in disk.rglob("*.part*") if ".unfinished" not in str(path)]
    assert not left


@pytest.mark.parametrize(("module", "key"), OUTPUTS)
def test_a_limit_on_the_size_of_files(module: str, key: str, world: Path, tmp_path: Path) -> None:
    """What a full disk is without root: no byte can be written."""
    command = TABLE[module]
    gone = {k: "@gone" for k in command.reads if k in command.options} if command.first else {}
    line = words(command, world, tmp_path, **{**gone, key: str(tmp_path / "out")})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        told = refused(module, line, str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in told
    assert not (tmp_path / "out").exists()


# Inputs


NOISE = np.random.default_rng(0).bytes(4096)
FILES: dict[str, bytes | None] = {
    "empty": b"",
    "noise": NOISE,
    "a picture": jpeg(0),
    "a list": b"[1, 2]",
    "an object": b'{"a": 1}',
    "a text": b"hello\n",
    "half an object": b'{"a": ',
    "no UTF-8": b'{"a": "\xff\xfe"}\n',
}
PLACED = ("not there", "a folder", "a link to nothing", "unreadable", "below a file")

SOUND = {
    "picture": ("a picture",),
    "pictures": (),
    "text": tuple(FILES),
    "shown run": ("an object",),
    "tar": ("empty",),
}
"""Contents that are right for a kind, or that its own tests judge."""

FOLDERS = {
    "tokenizer": ("empty", "prior", "pictures", "recipe", "source"),
    "prior": ("empty", "tokenizer", "run", "pictures", "recipe"),
    "run": ("empty", "tokenizer", "prior", "pictures", "recipe"),
    "shown run": ("empty", "tokenizer", "prior", "pictures", "recipe"),
    "run folder": ("empty", "tokenizer", "prior", "pictures", "recipe"),
    "recipe folder": ("empty", "tokenizer", "pictures"),
    "released": ("empty", "tokenizer", "run", "pictures"),
    "recipe": ("empty", "tokenizer", "pictures"),
}
"""Kinds of folders, and folders of other kinds in the world."""
CONFIGS = {
    "tokenizer": "config.json",
    "prior": "prior.json",
    "run": "config.yaml",
    "shown run": "config.yaml",
    "recipe": "tokenizer.yaml",
}
"""What describes a folder of each kind."""
OTHERS = {
    "any index": ("tokenizer/config.json", "result.json"),
    "index": ("codes/index.json", "tokenizer/config.json", "result.json"),
    "codes": ("pictures/index.json", "tokenizer/config.json", "result.json"),
    "jsonl": ("codes/index.json", "tokenizer/config.json"),
    "texts": ("codes/index.json", "pictures/index.json", "tokenizer/config.json", "result.json"),
    "yaml": ("codes/index.json", "tokenizer/config.json"),
    "result": ("codes/index.json", "tokenizer/config.json"),
}
"""Files of other kinds in the world."""


def wrongs(kind: str) -> list[str]:
    if kind in ("other", "path"):
        return ["not there", "a link to nothing", "below a file", *(["unreadable"] if kind == "path" else [])]
    if kind in FOLDERS:
        inside = [f"config {name}" for name in FILES if kind in CONFIGS and name not in SOUND.get(kind, ())]
        return [*PLACED[:3], "a file", "below a file", *(f"folder {name}" for name in FOLDERS[kind]), *inside]
    contents = [name for name in FILES if name not in SOUND.get(kind, ())]
    placed = [name for name in PLACED if (kind, name) not in (("pictures", "a folder"), ("pictures", "unreadable"))]
    return [*placed, *contents, *(f"file {name}" for name in OTHERS.get(kind, ()))]


INPUTS = [
    (module, key, wrong)
    for module, command in TABLE.items()
    for key, kind in command.reads.items()
    for wrong in wrongs(kind)
]


def spoiled(wrong: str, kind: str, world: Path, place: Path) -> Path:
    """A path that is wrong in this way."""
    path = place / "input"
    how, _, name = wrong.partition(" ")
    if wrong == "a folder":
        path.mkdir()
    elif wrong == "a link to nothing":
        path.symlink_to(place / "nowhere")
    elif wrong == "unreadable":
        return Path("/proc/self/mem")
    elif wrong == "below a file":
        (place / "file").write_text("")
        return place / "file" / "x"
    elif wrong == "a file":
        path.write_text("hello")
    elif how in ("folder", "file"):
        return world / name
    elif how == "config":
        shutil.copytree(world / kind.split()[-1], path)
        (path / CONFIGS[kind]).write_bytes(FILES[name] or b"")
    elif wrong != "not there":
        path.write_bytes(FILES[wrong] or b"")
    return path


@pytest.mark.parametrize(("module", "key", "wrong"), INPUTS)
def test_an_input_that_cannot_be_used(module: str, key: str, wrong: str, world: Path, tmp_path: Path) -> None:
    command = TABLE[module]
    path = spoiled(wrong, command.reads[key], world, tmp_path)
    out = tmp_path / "out"
    line = words(command, world, out, **{key: str(path)})
    refused(module, line, str(path), path.name, key.lstrip("-") + "=")
    assert not snapshot(out).keys() - {"all/.lock"}


def test_the_table_is_right_about_sound_files(world: Path, tmp_path: Path) -> None:
    """What the tests above call works where nothing is wrong."""
    for module in ("data.pack", "data.inspect", "stage1_tokenizer.reconstruct", "stage1_tokenizer.convert"):
        code, said = call(module, words(TABLE[module], world, tmp_path / module))
        assert code == 0, (module, said)
    assert json.loads((tmp_path / "data.pack" / "set" / "train.json").read_text())["shardlist"]


# During the work


def checked(run: Path) -> int:
    return call("launch.checkpoint", [str(run), "--verify"])[0]


def test_a_training_that_fills_the_disk_keeps_its_last_checkpoint_and_goes_on_later(
    world: Path, full_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    disk = full_disk(600_000)
    line = [*words(TABLE["stage1_tokenizer.train"], world, disk), "--steps=6", "--run.save_every=2"]
    code, said = call("stage1_tokenizer.train", line)
    assert code == BAD_INPUT
    assert [text for text in said if text.startswith("error: ")] == said[-1:]
    assert re.search(
        rf"the checkpoint of step 4 in {disk}/run can't be written \(No space left .*that of step 2", said[-1]
    )
    assert [path.name for path in (disk / "run" / "checkpoints").iterdir()] == ["step-000000002"]
    assert checked(disk / "run") == 0
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    assert call("stage1_tokenizer.train", line)[0] == 0
    assert checked(disk / "run") == 0


def test_pictures_that_do_not_fit_do_not_end_a_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "pictures").write_text("a file where their folder should be")
    code, said = call("stage1_tokenizer.train", words(TABLE["stage1_tokenizer.train"], world, tmp_path))
    assert code == 0
    (warning,) = [text for text in said if text.startswith("warning: ")]
    assert re.search(r"pictures/step-000000002\.png can't be .*; the run goes on", warning)


@pytest.mark.slow
def test_two_ranks_end_together_with_one_line(world: Path, full_disk: Callable[[int], Path], tmp_path: Path) -> None:
    disk = full_disk(8192)
    line = words(TABLE["stage2_prior.encode"], world, disk)
    done = tiny.call("stage2_prior.encode", line, processes=2)
    assert done.returncode == BAD_INPUT, done.stderr
    errors = [text for text in done.stderr.splitlines() if "encode: " not in text and text.strip()]
    assert len(errors) == 1 and "No space left on device" in errors[0] and str(disk) in errors[0], errors


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_reads_the_output_may_be_full_or_gone(unbuffered: str, world: Path) -> None:
    environment = {**tiny.environment(), "PYTHONUNBUFFERED": unbuffered}
    line = [sys.executable, "-m", "launch.status", str(world / "run")]
    options: Any = {"stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment, "check": False}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(line, stdout=full, **options)
    assert done.returncode == BAD_INPUT
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: ") and "can't be written (No space left on device)" in told
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(line, stdout=writer, **options)
    os.close(writer)
    assert (done.returncode, done.stderr) == (SIGNALLED + signal.SIGPIPE, "")
