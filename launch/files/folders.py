"""New folders that appear once they are complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from launch.command.cli import UserError
from launch.files.atomic import move_folder


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` at the end of the block, and removed if the block fails.

    Raises UserError if `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} exists: choose another folder, or delete it first")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        move_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
