"""Numbers of a run: summed on the device until they are logged, written as lines of JSON.

A line of metrics.jsonl: `{"step": int, "time": seconds since 1970, "kind": "train" | "eval" | "system", NAME: number}`.
Names are paths with slashes: `loss/rec`, `codes/perplexity`, `rate/pictures_per_second`, `eval/psnr`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FILE = "metrics.jsonl"
"""Name of the metrics file inside a run folder."""

RESERVED = ("step", "time", "kind")


class MetricFile:
    """Appends lines to metrics.jsonl; each line is whole or absent, also after a kill (one write per line)."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._heal()

    def _heal(self) -> None:
        """A killed run may have left half a line: end it, so that the next line stands alone."""
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open("rb+") as file:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def write(self, step: int, values: Mapping[str, float], kind: str) -> None:
        """Append one line. Raises ValueError where a name collides with the line's own keys."""
        if clash := [name for name in values if name in RESERVED]:
            raise ValueError(f"metric name {clash[0]!r} is reserved for the line itself: choose another")
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3), "kind": kind}
        line.update({name: _plain(value) for name, value in values.items()})
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk is the checkpoints' to judge (run.on_save_error)
            print(f"warning: {self.path} can't be written, a line is lost: {error}", file=sys.stderr, flush=True)


def _plain(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{float(value):.7g}")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file in order of their steps; of lines with the same step and kind the last one counts.

    A resumed run writes the steps since its checkpoint a second time. Lines that aren't whole JSON are skipped.
    """
    latest: dict[tuple[int, str], dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        latest[(line["step"], line["kind"])] = line
    return sorted(latest.values(), key=lambda line: line["step"])


class Means:
    """Running means of scalars that stay on their device until `take`.

    All ranks record the same names; `take` averages over the steps and then over the ranks, with one reduction.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float], device: Any) -> None:
        """Add one step's scalars (tensors of one element, or numbers)."""
        import torch

        for name, value in values.items():
            scalar = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(float(value))
            scalar = scalar.to(device=device, dtype=torch.float64 if device.type == "cpu" else torch.float32).reshape(
                ()
            )
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def not_finite(self, prefix: str) -> bool:
        """Whether a mean of this rank whose name begins with `prefix` is infinite or not a number; waits for it."""
        import torch

        sums = [value for name, value in self._sums.items() if name.startswith(prefix)]
        return bool(sums) and not bool(torch.isfinite(torch.stack(sums)).all())

    def take(self, world_size: int = 1) -> dict[str, float]:
        """The means since the last call, the same on every rank; the only point where the device is waited for."""
        import torch

        if not self._sums:
            return {}
        names = sorted(self._sums)
        counts = torch.tensor([self._counts[name] for name in names])
        means = torch.stack([self._sums[name] for name in names])
        means = means / counts.to(means)
        if world_size > 1:
            torch.distributed.all_reduce(means)
            means /= world_size
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))
