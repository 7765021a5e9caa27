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
    "fsq": {"kind": "fsq", "levels": "[5, 3, 3]"},
    "lfq": {"kind": "lfq"},
    "bsq": {"kind": "bsq"},
    "ibq": {"kind": "ibq"},
    "residual": {"kind": "residual", "codebooks": "2"},
    "product": {"kind": "product", "codebooks": "2"},
    "multiscale": {"kind": "multiscale", "scales": "[1, 2, 8]", "learning": "gradient"},
}
"""All but gumbel and gaussian, whose noise is another one on each rank."""


def trained(folder: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of a short training with each quantizer, on all ranks."""
    found = {}
    for name, own in QUANTIZERS.items():
        place = Path(folder) / name.replace(" ", "_")
        quantizer = {f"model__quantizer__{key}": value for key, value in own.items()}
        common = {"steps": 4, "model__dropout": 0, "evaluate_every": 2, "run__log_every": 2}
        data = {"data__index": tiny.ROOT / tiny.TRAIN, "data__held_out": tiny.ROOT / tiny.HELD_OUT}
        train(parse(TokenizerTrainConfig, tiny.arguments(place, **common, **data, **quantizer), prog="test"))
        found[name] = metrics.read(place / metrics.FILE)
    return found


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[dict[str, Any]]]]:
    """Of one rank, and of two."""
    folder = tmp_path_factory.mktemp("figures")
    return [trained(str(folder / "one")), run_distributed_test(trained, 2, [str(folder / "two")], timeout=300)[0]]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_two_ranks_log_what_one_does(lines: list[dict[str, list[dict[str, Any]]]], quantizer: str) -> None:
    one, two = (of[quantizer] for of in lines)
    different = []
    assert len(one) == len(two) == 4
    for first, second in zip(one, two, strict=True):
        names = [{name for name in line if not name.startswith(OF_THE_MACHINE)} for line in (first, second)]
        assert names[0] == names[1]
        for name in sorted(names[0] - {"kind"}):
            if second[name] != pytest.approx(first[name], rel=2e-3, abs=1e-5):
                different.append((first["step"], name, first[name], second[name]))
        assert first["kind"] == second["kind"]
    assert not different
