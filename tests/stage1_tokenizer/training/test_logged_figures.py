"""What a run logs doesn't depend on the number of ranks: two log, name by name, what one logs of the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.command.cli import parse
from launch.run import metrics
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.train import train
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer import tiny

OF_THE_MACHINE = ("rate/", "wait/", "memory/", "time")
"""Figures of the machine's speed and memory."""

QUANTIZERS: dict[str, dict[str, str]] = {
    "vq": {"learning": "gradient", "start": "uniform"},
    "moving average": {},
    "fsq": {"kind": "fsq", "levels": "[4, 4, 2]"},
    "lfq": {"kind": "lfq"},
    "bsq": {"kind": "bsq"},
    "ibq": {"kind": "ibq"},
    "residual": {"kind": "residual", "codebooks": "2"},
    "product": {"kind": "product", "codebooks": "2"},
    "multiscale": {"kind": "multiscale", "scales": "[1, 2, 8]", "learning": "gradient"},
}
"""All but gumbel and gaussian, whose noise is another one on each rank."""


def trained(folder: str, changes: dict[str, str]) -> list[dict[str, Any]]:
    """The lines of a short training on all ranks."""
    options = tiny.arguments(Path(folder), data__index=tiny.ROOT / tiny.TRAIN, data__held_out=tiny.ROOT / tiny.HELD_OUT)
    words = [*options, *(word for name, value in changes.items() for word in (f"--{name}", value))]
    train(parse(TokenizerTrainConfig, words, prog="test"))
    return metrics.read(Path(folder) / metrics.FILE)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_two_ranks_log_what_one_does(tmp_path: Path, quantizer: str) -> None:
    settings = {f"model.quantizer.{name}": value for name, value in QUANTIZERS[quantizer].items()}
    changes = {"steps": "4", "model.dropout": "0", "evaluate_every": "2", "run.log_every": "2", **settings}
    (one,) = run_distributed_test(trained, 1, [str(tmp_path / "one"), changes])
    two, _ = run_distributed_test(trained, 2, [str(tmp_path / "two"), changes])
    assert [(line["step"], line["kind"]) for line in one] == [(line["step"], line["kind"]) for line in two]
    for mine, other in zip(two, one, strict=True):
        names = {name for name in other if not name.startswith(OF_THE_MACHINE)}
        assert names == {name for name in mine if not name.startswith(OF_THE_MACHINE)}
        for name in sorted(names):
            assert mine[name] == pytest.approx(other[name], rel=2e-3, abs=1e-5), (other["step"], name)
