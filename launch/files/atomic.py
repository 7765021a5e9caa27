"""Files and folders that a reader or a kill finds complete: the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from launch.files.outputs import output, try_new_folder


@contextlib.contextmanager
def writing(path: Path, *, part: Path | None = None) -> Iterator[BinaryIO]:
    """A temporary file that replaces `path` at the end of the block, and is removed if the block fails.

    `part` is where it is written first, on the same file system; beside `path` if left out.
    """
    part = part or path.with_name(f".{path.name}.{os.getpid()}.part")
    with output(path, part=part):
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong before counts
                part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_file(path: Path, content: str | bytes, *, part: Path | None = None) -> None:
    """Replace a small file as a whole, or leave it as it was."""
    with writing(path, part=part) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def move_folder(temporary: Path, path: Path) -> None:
    """Put a complete folder in its place, which it replaces; its files must be synced."""
    sync_folder(temporary)
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` at the end of the block, and removed if the block fails.

    Raises UserError if `out` exists and is not an empty folder, or can't be written; OutputError where it can't be
    written later.
    """
    try_new_folder("out", out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    with output(out, part=temporary):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            share(temporary)
            if out.exists():
                out.rmdir()  # fails on files that came meanwhile, which move_folder would delete
            move_folder(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def share(folder: Path) -> None:
    """Give weights, which safetensors writes for their owner alone, the mode of any other new file."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
