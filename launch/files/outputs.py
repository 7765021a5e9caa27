"""Outputs of commands: tried before the work, and named in every error of writing them.

A command calls try_file, try_folder or try_new_folder for each of its outputs before it opens models or data. What goes
wrong later is an OutputError where the writing goes through `output` (all of launch.files.atomic does). Either way
launch.command.cli.run tells it as one line with the path and the reason, and ends with exit code 2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from launch.command.cli import UserError
from launch.command.file_errors import DISK, OutputError, way_out

PROBE = 4096
"""Bytes that are written to try a place: one block, which a full disk refuses."""


@contextlib.contextmanager
def output(path: Path | str, *, part: Path | None = None) -> Iterator[None]:
    """Errors of writing `path` in the block become OutputErrors that name it, those that libraries wrap too.

    `part` is the temporary file or folder that is written first. Errors of other files pass as they are.
    """
    try:
        yield
    except (OutputError, UserError):
        raise
    except OSError as error:
        if error.filename is not None and not _within(error.filename, part or path):
            raise
        raise OutputError(error.errno or errno.ENOSPC, error.strerror or str(error), str(path)) from error
    except Exception as error:
        if (number := _hidden(error)) is None:
            raise
        raise OutputError(number, os.strerror(number), str(path)) from error


def _within(name: str | bytes | int, path: Path | str) -> bool:
    """Whether an error's file is the output, within it, or a folder above it that can't be made."""
    if isinstance(name, int):
        return False
    named = Path(os.fsdecode(name))
    return named.is_relative_to(path) or Path(path).is_relative_to(named)


def _hidden(error: BaseException) -> int | None:
    """The error number that safetensors (in Rust) and torch (in C++) keep in a message or a context of theirs."""
    if found := re.search(r"serializing.*\(os error (\d+)\)", str(error)):
        return int(found[1])
    inner = error.__cause__ or error.__context__
    if isinstance(inner, OSError) and inner.errno in DISK:
        return inner.errno
    return errno.ENOSPC if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error) else None


def try_folder(key: str, path: Path | str) -> None:
    """Raise UserError unless files can be written into a folder, which may be there or not; leaves nothing behind.

    Addresses of stores (`s3://…`) pass: they are tried by what writes to them.
    """
    if "://" in str(path):
        return
    folder = Path(path)
    with _told(key, folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{key}={folder} is a file, not a folder: give a folder")
        _try(key, folder, _nearest(folder))


def try_new_folder(key: str, path: Path | str) -> None:
    """As try_folder, for a folder that must not exist yet, or be empty."""
    folder = Path(path)
    with _told(key, folder):
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{key}={folder} exists: choose another folder, or delete it first")
        _try(key, folder, _nearest(folder.absolute().parent))


def try_file(key: str, path: Path | str | None, *, inputs: tuple[Path | str | None, ...] = ()) -> None:
    """Raise UserError unless a file can be written or replaced there; None and addresses of stores pass.

    `inputs` are files that the command reads, none of which it may replace.
    """
    if path is None or "://" in str(path):
        return
    file = Path(path)
    with _told(key, file):
        if file.is_dir() or str(path).endswith("/"):
            raise UserError(f"{key}={path} is a folder: give the name of a file")
        if file.exists():
            if not stat.S_ISREG(file.stat().st_mode):
                raise UserError(f"{key}={file} is a device or a pipe, which can't be replaced: give the name of a file")
            if any(one is not None and Path(one).exists() and Path(one).samefile(file) for one in inputs):
                raise UserError(f"{key}={file} is a file that this command reads: give another name")
            file.open("r+b").close()
        _try(key, file, _nearest(file.absolute().parent))


def try_files(outputs: Mapping[str, Path | str | None], *, inputs: tuple[Path | str | None, ...] = ()) -> None:
    """As try_file, for all files that a command writes, by their settings: no two may be the same."""
    keys: dict[str, str] = {}
    for key, path in outputs.items():
        try_file(key, path, inputs=inputs)
        if path is not None and (first := keys.setdefault(os.path.realpath(path), key)) != key:
            raise UserError(f"{first} and {key} are the same file, {path}: give another name for one of them")


@contextlib.contextmanager
def _told(key: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{key}={path} can't be written ({error.strerror or error}): {way_out(error)}") from error


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _try(key: str, path: Path, place: Path) -> None:
    """Write a block to a file without a name, or to one that is removed at once."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()  # raises for a name that is too long
    if not place.is_dir():
        what = "a link to nothing" if place.is_symlink() and not place.exists() else "a file"
        raise UserError(f"{key}={path} can't be written ({place} is {what}, not a folder): choose another place")
    with tempfile.TemporaryFile(dir=place, prefix=".try-", buffering=0) as file:
        file.write(bytes(PROBE))
        os.fsync(file.fileno())
