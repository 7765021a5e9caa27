"""The metrics of a run, as lines of JSON; needs no torch.

A line of metrics.jsonl: `{"step": int, "time": seconds since 1970, "kind": "train" | "eval" | "system", NAME: number}`,
or of kind "event" with sentences in place of numbers.
Names are paths with slashes: `loss/rec`, `codes/perplexity`, `rate/pictures_per_second`, `eval/psnr`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"
"""Name of the metrics file inside a run folder."""

RESERVED = ("step", "time", "kind")


class MetricFile:
    """Appends lines to metrics.jsonl; each line is whole or absent, also after a kill (one write per line)."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        # A killed run may have left half a line: end it, so that the next line stands alone.
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open("rb+") as file:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def write(self, step: int, values: Mapping[str, float] | Mapping[str, str], kind: str) -> None:
        """Append one line. Raises ValueError where a name collides with the line's own keys."""
        if clash := [name for name in values if name in RESERVED]:
            raise ValueError(f"metric name {clash[0]!r} is reserved for the line itself: choose another")
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3), "kind": kind}
        for name, value in values.items():
            line[name] = value if isinstance(value, int | str) else float(f"{float(value):.7g}")
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk is the checkpoints' to judge (run.on_save_error)
            print(f"warning: {self.path} can't be written, a line is lost: {error}", file=sys.stderr, flush=True)


RENAMED = {"gradient_norm": "optimizer/gradient_norm", "learning_rate": "optimizer/learning_rate"}
"""Names that metrics had in files of older versions, and those that they have now."""


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file in order of their steps; of lines with the same step and kind the last one counts.

    A resumed run writes the steps since its checkpoint a second time. Lines that aren't whole or ours are skipped.
    """
    latest: dict[tuple[int, str], dict[str, Any]] = {}
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line: Any = json.loads(text)
        except json.JSONDecodeError:
            continue
        if not isinstance(line, dict) or not {"step", "kind"} <= line.keys():
            continue
        latest[(line["step"], line["kind"])] = {
            RENAMED.get(str(name), str(name)): value for name, value in line.items()
        }
    return sorted(latest.values(), key=lambda line: line["step"])
