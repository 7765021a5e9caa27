"""What a section of the evidence gets: its device, its deadline, and where its rows go. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LINES = "evidence.jsonl"
"""One JSON object a line: rows (with "group" and "name"), and for each section a closing one (with "ok")."""


class TimeUp(BaseException):
    """A section's deadline. No `except Exception` of a library may take it for an error of its own."""


@dataclass
class Bench:
    """One section at work."""

    section: int | str
    out: Path
    """Folder of evidence.jsonl and of the sections' logs."""
    deadline: float = float("inf")
    """In time.monotonic()."""
    rehearse: bool = False
    """Tiny sizes on the CPU, through the same code."""
    gathered: Path | None = None
    """What tests/gpu/gather.sh collected; None if it isn't there."""

    @property
    def device(self) -> str:
        """Where the section computes."""
        return "cpu" if self.rehearse else "cuda"

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def gathered_file(self, name: str) -> Path | None:
        """A gathered file or folder, if it is there."""
        place = self.gathered / name if self.gathered else None
        return place if place is not None and place.exists() else None

    def row(self, group: str, name: str, **values: Any) -> None:
        """Write one result at once; rows of a group make a table."""
        write_line(self.out, {"section": self.section, "group": group, "name": name, **values})

    def part(self, group: str, name: str, call: Callable[[], Any], *, seconds: float = 0) -> Any:
        """What a part of a section gives that may fail alone: then None, and a row that says why.

        It isn't begun with less than `seconds` left, which a rehearsal doesn't look at.
        """
        if self.left() < seconds and not self.rehearse:
            self.row(group, name, note=f"not begun: it needs {seconds:.0f} s and {self.left():.0f} were left")
            return None
        try:
            return call()
        except Exception as error:
            traceback.print_exc()
            self.row(group, name, error=short(error))
            return None

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for files that don't belong to the results."""
        with tempfile.TemporaryDirectory(prefix="vqloom-evidence-", ignore_cleanup_errors=True) as place:
            yield Path(place)


def short(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def write_line(out: Path, values: dict[str, Any]) -> None:
    """Append one JSON line, whole, so that processes beside each other can."""
    text = json.dumps(values, default=str) + "\n"
    handle = os.open(out / LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def read_lines(out: Path) -> list[dict[str, Any]]:
    """All lines that are whole."""
    path = out / LINES
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]
