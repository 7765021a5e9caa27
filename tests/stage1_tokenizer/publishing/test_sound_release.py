"""A released tokenizer of sounds: it loads with plain transformers, and its card has players and spectrograms."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from launch.command.cli import parse
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.release import ReleaseConfig, release
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.train import TokenizerTrainConfig, train
from tests.stage2_prior.sounds import LENGTH, RATE, write_sounds

CONFIG: dict[str, Any] = {
    "data": {"batch_size": 4, "transform": {"kind": "sounds", "sample_rate": RATE, "length": LENGTH}},
    "model": {
        "backbone": "vocos",
        "spatial_dims": 1,
        "in_channels": 1,
        "vocos": {"hop": 64, "window": 256, "width": 16, "blocks": [1, 1]},
        "z_channels": 16,
        "quantizer": {"kind": "residual", "codebooks": 3, "codebook_size": 16, "code_dim": 4},
    },
    "loss": {"terms": {"mel": {"weight": 1.0, "windows": [64, 128]}}, "adversarial": {"weight": 0}},
    "steps": 2,
    "evaluate_samples": 4,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sounds")
    data = {
        name: write_sounds(place / name, shards=1, each=8, seed=seed) for seed, name in enumerate(("train", "held"))
    }
    config = {**CONFIG, "run": {"folder": str(place / "run"), "trackers": []}}
    config["data"] = {**CONFIG["data"], "index": data["train"], "held_out": data["held"]}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    assert train(parse(TokenizerTrainConfig, ["--config", str(place / "config.yaml")], prog="test")) == 0
    return place / "run"


@pytest.fixture(scope="module")
def released(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("released") / "tones"
    figures = out.parent / "figures.json"
    evaluate_tokenizer(
        EvaluateConfig(tokenizer=str(run), data=str(run.parent / "held" / "index.json"), out=str(figures))
    )
    return release(ReleaseConfig(run=str(run), out=str(out), licence="mit", name="tones", metrics=str(figures)))


def test_the_card_plays_each_clip_by_number_of_codebooks(released: Path) -> None:
    card = (released / "README.md").read_text()
    players = re.findall(
        r'^(.*): <audio controls preload="none" src="data:audio/flac;base64,([^"]+)"></audio>$', card, re.M
    )
    assert [title for title, _ in players[:4]] == ["original", "1 codebook", "2 codebooks", "all codes"]
    assert len(players) == 12
    files = ["00-original", "00-books-1", "00-books-2", "00"]
    for name, (_, address) in zip(files, players, strict=False):
        assert base64.b64decode(address) == (released / "sounds" / f"{name}.flac").read_bytes()
        assert Image.open(released / "sounds" / f"{name}.png").size == (192, 96)
    assert Image.open(released / "reconstructions.png").size == (4 * 196 - 4, 3 * 100 - 4)
    for words in (
        f"{LENGTH} samples at {RATE} Hz, mono",
        "3×16 codes out of 16",
        "audio-tokenizer",
        "| 3 |",
        "SI-SDR (dB)",
    ):
        assert words in card
    assert "pixels" not in card and "picture" not in card.lower()


def test_it_loads_whole(run: Path, released: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(released)
    x_BCT = torch.rand(1, 1, LENGTH, generator=torch.Generator().manual_seed(0)) - 0.5
    codes = tokenizer.encode(x_BCT)
    assert codes.shape == (1, 3, LENGTH // 64) and tokenizer.decode(codes[:, :2]).shape == x_BCT.shape
    assert tokenizer.transform is not None and tokenizer.transform.kind == "sounds"
    metrics = json.loads((released / "metrics.json").read_text())
    assert [one["books"] for one in metrics["by_books"]] == [1, 2, 3]


def test_without_a_measurement_the_runs_own_figures_are_released(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage1_tokenizer.publishing.release.try_out", lambda *_: None)  # the one above is tried
    out = release(ReleaseConfig(run=str(run), out=str(tmp_path / "tones"), licence="mit"))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["measured"]["subset"] == "at most 4 sounds, evenly spaced" and "lpips" not in metrics["measured"]
    assert "mel_distance" in metrics["measured"]["metrics"] and metrics["mel_distance"] > 0
    assert "mel distance" in (out / "README.md").read_text()
