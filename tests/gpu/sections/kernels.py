"""Section 3: the kernels beside torch's own and beside what the card's bandwidth and arithmetic allow."""

from __future__ import annotations

from tests.benchmarks import gpu_kernels
from tests.gpu.sections.bench import Bench

KEPT = 3.0
"""Seconds kept for the last shape that was begun."""


def kernels(bench: Bench) -> None:
    """Each shape by itself, so that its rows are there at once."""
    shapes = gpu_kernels.TINY if bench.rehearse else (*gpu_kernels.NORMS, *gpu_kernels.SEARCHES)
    for shape in shapes:
        found = bench.part(
            "kernels", "×".join(map(str, shape)), lambda shape=shape: measured(bench, shape), seconds=KEPT
        )
        for row in found or ():
            bench.row("kernels", str(row.pop("name")), **row)


def measured(bench: Bench, shape: gpu_kernels.Shape) -> list[gpu_kernels.Row]:
    """The rows of a shape."""
    return gpu_kernels.measure(bench.device, [shape], bench.left())
