"""The linear probe: exact ridge regression from sums, and what it says of a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from launch.command.cli import UserError
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.probing import RIDGE, Ridge
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.losses.tiny_networks import save


def test_the_map_is_ridge_regression_however_its_rows_are_added() -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=random).double() * torch.tensor([1.0, 20.0, 0.1, 0.0]) + 3
    outputs = torch.randn(60, 2, generator=random).double() + inputs[:, :2]
    parts = [Ridge(torch.device("cpu")) for _ in range(2)]
    for number, rows in enumerate(zip(inputs.split(7), outputs.split(7), strict=True)):
        parts[number % 2].add(rows)
    products = parts[0]._products + parts[1]._products  # type: ignore[operator]
    found = parts[0].solved(lambda _: products)

    scaled = (inputs - inputs.mean(0)) / inputs.std(0, correction=0).clamp_min(1e-12)
    expected = SklearnRidge(alpha=RIDGE * 60).fit(scaled.numpy(), outputs.numpy()).predict(scaled.numpy())
    assert torch.allclose(found(inputs), torch.from_numpy(expected), atol=1e-6)


def test_figures_of_a_tokenizer_and_what_they_depend_on(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    measured = {"tokenizer": str(tmp_path / "tokenizer"), "data": tiny.HELD_OUT, "lpips": False, "features": "none"}
    options = {
        **measured,
        "samples": 100,
        "probe": tiny.TRAIN,
        "probe_samples": 300,
        "teacher": save(tmp_path / "network"),
    }

    result = evaluate_tokenizer(EvaluateConfig(**options, out=str(tmp_path / "one.json")))  # type: ignore[arg-type]

    assert 0.1 < result["linear_probe"] < 1
    assert 0.5 < result["semantic_cosine"] <= 1
    assert result["measured"]["probe"]["samples"] == 300
    with pytest.raises(ValueError, match=r"needs probe: set it"):
        EvaluateConfig(**measured, teacher="network", out="x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"has other classes than"):
        odd = {**options, "probe": "data/samples/emoji/train.json", "teacher": None}
        evaluate_tokenizer(EvaluateConfig(**odd, out=str(tmp_path / "two.json")))  # type: ignore[arg-type]
