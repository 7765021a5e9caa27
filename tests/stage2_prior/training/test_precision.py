"""Half precision and compiling, for real: the losses are those of the plain training, as far as rounding goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from launch.run import compiling
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.train import train
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.training.test_strategies import lines, losses, settings

SMALL = PriorModelConfig(layers=1, width=16, heads=2, class_dropout=0.0)


@pytest.fixture(scope="module")
def plain(coded: Coded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    assert train(settings(coded, folder, model=SMALL, steps=6, evaluate_every=6)) == 0
    return folder


def test_bf16_trains_and_keeps_float32_weights(coded: Coded, plain: Path, tmp_path: Path):
    run = {"precision": "bf16", "save_in_background": True}
    assert train(settings(coded, tmp_path, model=SMALL, steps=6, evaluate_every=6, run=run)) == 0
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=5e-3)
    assert losses(tmp_path) != losses(plain)
    with safe_open(tmp_path / "checkpoints" / "step-000000006" / "prior.part0.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float32}  # noqa: SIM118


def test_what_a_training_costs_and_achieves_is_logged(plain: Path):
    written = [json.loads(line) for line in (plain / "metrics.jsonl").read_text().splitlines()]
    assert all(line["rate/mfu"] > 0 for line in written if "rate/mfu" in line)
    assert sum("rate/mfu" in line for line in written) == 6
    assert any(line.get("model/flops_per_code", 0) > 0 and line["model/parameters"] > 0 for line in written)
    (evaluated,) = lines(plain, "eval")
    assert 0 <= evaluated["eval/accuracy"] < 0.9
    assert 0 < evaluated["eval/bits_per_code"] < 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_a_compiled_prior_learns_the_same(coded: Coded, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling, "FASTER", ("cpu", "cuda"))
    assert train(settings(coded, tmp_path, model=SMALL, steps=6, evaluate_every=6, compile=True)) == 0
    assert losses(tmp_path) == pytest.approx(losses(plain), abs=1e-5)
    one, other = lines(plain, "eval")[0], lines(tmp_path, "eval")[0]
    assert other["eval/bits_per_code"] == pytest.approx(one["eval/bits_per_code"], abs=1e-5)
