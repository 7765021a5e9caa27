"""Numbers of a run: summed on the device until they are logged, written as lines of JSON.

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

    def write(self, step: int, values: Mapping[str, float] | Mapping[str, str], kind: str) -> None:
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


def _plain(value: float | str) -> float | int | str:
    return value if isinstance(value, int | str) else float(f"{float(value):.7g}")


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
    """Running means of scalars that stay on their device until `take`; values that aren't finite are left out.

    All ranks record the same names; `take` averages over the steps and the ranks, with one reduction.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._steps: dict[tuple[str, ...], int] = {}

    def add(self, values: Mapping[str, Tensor | float], device: Any) -> None:
        """Add one step's scalars (tensors of one element, or numbers)."""
        import torch

        if not values:
            return
        exact = torch.float64 if device.type == "cpu" else torch.float32
        names = tuple(sorted(values))
        row = torch.stack([torch.as_tensor(values[name]).detach().to(device, exact).reshape(()) for name in names])
        finite = torch.isfinite(row)
        sums = torch.stack([torch.where(finite, row, 0.0), finite.to(exact)])
        self._sums[names] = self._sums[names] + sums if names in self._sums else sums
        self._steps[names] = self._steps.get(names, 0) + 1

    def not_finite(self, prefix: str) -> list[str]:
        """Names that begin with `prefix` of which this rank has met values that aren't finite; waits for the device."""
        found = set()
        for names, (_, counts) in self._sums.items():
            pairs = zip(names, counts.tolist(), strict=True)
            found |= {name for name, count in pairs if name.startswith(prefix) and count < self._steps[names]}
        return sorted(found)

    def take(self, world_size: int = 1) -> dict[str, float]:
        """The means since the last call, the same on every rank; NaN where none was finite. Waits for the device."""
        import torch

        if not self._sums:
            return {}
        names = sorted({name for several in self._sums for name in several})
        place = {name: number for number, name in enumerate(names)}
        any_sums = next(iter(self._sums.values()))
        total = any_sums.new_zeros(2, len(names))
        for several, sums in self._sums.items():
            total[:, torch.tensor([place[name] for name in several], device=total.device)] += sums
        if world_size > 1:
            torch.distributed.all_reduce(total)
        self._sums, self._steps = {}, {}
        return dict(zip(names, (total[0] / total[1]).tolist(), strict=True))
