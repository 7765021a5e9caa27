"""What the sampler's benchmark does on GPUs, on a CPU with a tiny prior."""

from __future__ import annotations

import torch

from tests.benchmarks.sampler import measure

TINY = {"side": 3, "codes": 24, "layers": 2, "width": 32, "heads": 4}


def test_all_samplers_are_measured_while_there_is_time() -> None:
    found = measure("cpu", [2], [1.0, 3.0], 60, TINY, dtype=torch.float32)
    names = ["ours", "ours, graphs", "ours, compiled graphs", "generate, compiled"]
    assert [(one["guidance"], one["name"]) for one in found] == [(s, name) for s in (1.0, 3.0) for name in names]
    assert all(one["tokens_per_second"] > 0 and "error" not in one for one in found)
    assert [one["same"] for one in found if "generate" not in one["name"]] == [1.0] * 6
    assert {one["error"] for one in measure("cpu", [2], [1.0], 0, TINY)} == {"no time was left"}
