"""Means of a run's scalars, which stay on their device until they are logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Means:
    """Running means of scalars that stay on their device until `take`; values that aren't finite are left out.

    All ranks record the same names; `take` averages over the steps and the ranks, with one reduction.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._steps: dict[tuple[str, ...], int] = {}

    def add(self, values: Mapping[str, Tensor | float], device: Any) -> None:
        """Add one step's scalars (tensors of one element, or numbers)."""
        if not values:
            return
        exact = torch.float64 if device.type == "cpu" else torch.float32
        names = tuple(sorted(values))
        row = torch.stack([_element(values[name], device).to(device, exact) for name in names])
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


def _element(value: Tensor | float, device: Any) -> Tensor:
    """A scalar as a tensor without axes; a number is made on the device, as a copy would wait for it."""
    if isinstance(value, Tensor):
        return value.detach().reshape(())
    return torch.full((), value, device=device)
