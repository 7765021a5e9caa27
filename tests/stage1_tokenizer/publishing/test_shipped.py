"""The trained tokenizers in docs/releases: each loads, is small, and rebuilds pictures that it has not seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_sample
from launch.command.cli import parse
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.measuring.scores import psnr
from stage1_tokenizer.publishing.standalone import try_out, write_model_files
from stage1_tokenizer.training.fine_tuning import check_init, with_model
from tests.imports import ROOT

RELEASES = sorted((ROOT / "docs" / "releases").glob("*/preprocessor_config.json"))
LARGEST = 8 * 2**20
"""Bytes of weights that a release in the repository may have."""


@pytest.mark.parametrize("release", [place.parent for place in RELEASES], ids=lambda place: place.name)
def test_a_shipped_tokenizer_loads_and_rebuilds_pictures(release: Path, tmp_path: Path) -> None:
    assert (release / "model.safetensors").stat().st_size <= LARGEST
    card = (release / "README.md").read_text()
    assert "license:" in card
    tokenizer = Tokenizer.from_pretrained(release)
    assert tokenizer.fingerprint in card + (release / "metrics.json").read_text()
    assert tokenizer.transform is not None
    emoji = str(ROOT / "data" / "samples" / "emoji" / "held_out.json")
    batch = next(every_sample(emoji, tokenizer.transform, batch_size=16, limit=16))
    x_BCHW = to_float(batch.pixels_BCHW)
    with torch.no_grad():
        codes = tokenizer.encode(x_BCHW)
        again = tokenizer.decode(codes)
    assert codes.shape == (16, *tokenizer.codes_shape(tokenizer.transform.size))
    assert float(psnr(to_uint8(again), batch.pixels_BCHW).mean()) > 17, "emoji, of which it has seen none"
    assert json.loads((release / "metrics.json").read_text())["psnr"] > 20
    copied = tmp_path / release.name
    shutil.copytree(release, copied)
    write_model_files(copied)
    try_out(copied, tokenizer)


def test_first_try_begins_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = with_model(["--config", "launch/recipes/first_try/tokenizer.yaml"])
    config = parse(TokenizerTrainConfig, words, prog="test")
    check_init(config)
    assert config.init is not None and ROOT / config.init / "preprocessor_config.json" in RELEASES
    assert config.model == Tokenizer.from_pretrained(config.init).config
