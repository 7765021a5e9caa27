"""The comparison: same settings but the quantizer's, finished runs reused, a table and a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from launch.command.cli import parse
from stage1_tokenizer.config.comparison import VARIANTS, CompareConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.measuring.comparison import compare, settings
from stage1_tokenizer.quantizers import KINDS
from tests.stage1_tokenizer import tiny

DROPPED = ("model.quantizer", "steps", "data.index", "data.held_out", "run.save_every", "loss.adversarial.start")


def config(folder: Path) -> CompareConfig:
    """A comparison on digits that takes seconds."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"model": {"z_channels": 8}}))
    options = {key: value for key, value in tiny.OPTIONS.items() if not key.startswith(DROPPED)}
    return CompareConfig(
        recipe=str(recipe), train=tiny.TRAIN, held_out=tiny.HELD_OUT, out=str(folder / "out"), steps=2,
        variants=["vae", "residual"], options=options, samples=8, lpips=False, pictures=3,
    )  # fmt: skip


def test_every_kind_is_compared_under_settings_that_load(tmp_path: Path) -> None:
    given = config(tmp_path)
    assert {quantizer["kind"] for quantizer, _ in VARIANTS.values()} == set(KINDS)
    made = {}
    for name in VARIANTS:
        options = settings(given, name, tmp_path / "run", 8)
        parts = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        made[name] = parse(TokenizerTrainConfig, ["--config", given.recipe, *parts], prog="test")
    assert made["vqgan"].loss.adversarial.weight > 0 == made["vq-vae"].loss.adversarial.weight
    model = made["vqgan"].model
    assert all(replace(other.model, quantizer=model.quantizer) == model for other in made.values())
    assert made["vqgan"].model.quantizer == made["vq-vae"].model.quantizer


def test_trains_measures_and_reuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.ROOT)
    given = config(tmp_path)
    results = compare(given)
    assert results["residual"]["bits_per_pixel"] == pytest.approx(64 * 2 * 5 / 256)
    assert "bits_per_pixel" not in results["vae"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.count("\n| ") == 2 and "| vae |" in text
    with Image.open(tmp_path / "out" / "reconstructions.png") as page:
        assert page.size == (3 * (64 + 4), 14 + 3 * (64 + 4))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}
    assert compare(given) == results
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}


def test_an_unknown_variant_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="variants=vqvae is not known"):
        replace(config(tmp_path), variants=["vqvae"])
