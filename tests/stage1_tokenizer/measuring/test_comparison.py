"""The comparison: same settings but the quantizer's, finished runs reused, a table and a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from launch.command.cli import UserError, parse
from stage1_tokenizer.config.comparison import OF_SOUNDS, VARIANTS, CompareConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.measuring.comparison import compare, kind_and_grid, settings, table
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


def test_every_variant_of_sounds_loads_and_residual_ones_have_rows_by_rate(tmp_path: Path) -> None:
    recipe = str(tiny.ROOT / "launch" / "recipes" / "speech" / "tokenizer.yaml")
    given = replace(config(tmp_path), recipe=recipe, options={}, variants=[])
    assert kind_and_grid(given) == ("sounds", 128)
    for name in OF_SOUNDS:
        options = settings(given, name, tmp_path / "run", 128, "sounds")
        parts = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        made = parse(TokenizerTrainConfig, ["--config", recipe, *parts], prog="test")
        assert made.model.quantizer.kind == OF_SOUNDS[name][0]["kind"]
        assert made.model.quantizer.codebook_dropout == OF_SOUNDS[name][0].get("codebook_dropout", 0)
    about = {
        "transform": {"kind": "sounds"},
        "data": {"name": "speech"},
        "commit": "abc",
        "hardware": "2 CPU cores",
        "date": "2026-11-28",
    }
    figures = {"mel_distance": 1.0, "stoi": 0.8, "bits_per_second": 1000.0, "samples": 97, "measured": about}
    rows = [{"books": 1, "mel_distance": 2.0, "bits_per_second": 250.0}, {"books": 4, "mel_distance": 1.0}]
    text = table({"vq": figures, "residual": {**figures, "by_books": rows}}, 1500)
    assert "| vq | 1.000 | – | – | 0.800 | 1000 | – |" in text
    assert "| residual, first 1 | 2.000 | – | – | – | 250 | – |" in text
    assert text.count("\n| ") == 3
    assert "1500 steps each; 97 sounds of `speech`; commit abc; 2 CPU cores; 2026-11-28." in text
    with pytest.raises(UserError, match="variants=vae is not for sounds"):
        compare(replace(given, variants=["vae"]))


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
