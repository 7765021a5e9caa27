"""Writes a checkpoint's files: hashed on the way, synced, and from a copy where training continues meanwhile."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from launch.checkpoints.pieces import PieceState, write_pieces
from launch.files.outputs import output


class HashingFile:
    """Counts and hashes what is written through it, so that a new checkpoint need not be read back."""

    def __init__(self, file: BinaryIO):
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def write(self, piece: Any) -> int:
        """Write it."""
        self._hash.update(piece)
        self.size += len(piece)
        return self._file.write(piece)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()

    @property
    def entry(self) -> dict[str, Any]:
        """What the manifest says of the file."""
        return {"size": self.size, "sha256": self._hash.hexdigest()}


def write(path: Path, part: Any) -> dict[str, Any]:
    """Write one file (of pieces, or of a state_dict by torch.save) and wait for the disk; its entry in the manifest."""
    with path.open("wb") as file:
        hashing = HashingFile(file)
        if isinstance(part, PieceState):
            write_pieces(part.pieces(), cast("BinaryIO", hashing))
        else:
            torch.save(part.state_dict(), cast("BinaryIO", hashing))
        file.flush()
        os.fsync(file.fileno())
    return hashing.entry


def write_all(folder: Path, parts: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Write files into a folder; their entries by name, and what was wrong with the disk."""
    try:
        with output(folder):  # torch's zip writer hides the file's OSError in its own
            return {name: write(folder / name, part) for name, part in parts.items()}, None
    except OSError as error:
        return {}, error.strerror or str(error)


class Frozen:
    """A copy of a state_dict in the memory of the CPU, which training no longer changes."""

    def __init__(self, part: Any):
        self._state = _copied(part.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The copy."""
        return self._state


def frozen(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of all parts."""
    return {name: part.frozen() if isinstance(part, PieceState) else Frozen(part) for name, part in parts.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        items: Sequence[Any] = [_copied(item) for item in value]
        return type(value)(items)
    return value


class Background:
    """Work in a thread of its own, which doesn't keep the process from ending."""

    def __init__(self, work: Callable[[], str | None]):
        self._outcome: Future[str | None] = Future()
        threading.Thread(target=self._run, args=(work,), name="checkpoint", daemon=True).start()

    def wait(self) -> str | None:
        """Its result, once it has ended; its exception is raised here."""
        return self._outcome.result()

    def _run(self, work: Callable[[], str | None]) -> None:
        try:
            self._outcome.set_result(work())
        except BaseException as error:
            self._outcome.set_exception(error)
