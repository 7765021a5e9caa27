"""A run on sounds: trained by each preset, resumed to the bit, with clips that end early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from launch.command.cli import parse
from launch.run.metrics import read
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.media import MEDIA
from stage1_tokenizer.train import train
from stage1_tokenizer.training.cost import dry_run
from stage1_tokenizer.training.loop import train_step as original
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.training.test_several import checkpoint

SPEECH = tiny.ROOT / "data" / "samples" / "speech"
OPTIONS = {
    "run.trackers": "[]",
    "run.log_every": "1",
    "run.save_every": "2",
    "data.index": str(SPEECH / "train.json"),
    "data.held_out": str(SPEECH / "held_out.json"),
    "data.batch_size": "4",
    "data.transform.kind": "sounds",
    "data.transform.sample_rate": "8000",
    "data.transform.length": "2048",
    "model.backbone": "vocos",
    "model.spatial_dims": "1",
    "model.in_channels": "1",
    "model.vocos.hop": "128",
    "model.vocos.window": "256",
    "model.vocos.width": "16",
    "model.vocos.blocks": "[1, 1]",
    "model.z_channels": "8",
    "model.quantizer.kind": "residual",
    "model.quantizer.codebooks": "2",
    "model.quantizer.codebook_size": "16",
    "model.quantizer.code_dim": "8",
    "loss.adversarial.channels": "4",
    "optimizer.ema_decay": "0.9",
    "evaluate_samples": "4",
    "steps": "4",
}
DAC = {"loss__preset": "dac", "loss__discriminators": '[{"windows": [128, 64], "channels": 4}]'}
DAC |= {"loss__terms": '{"mel": {"windows": [32, 64, 128]}}', "loss__adversarial__periods": "[2, 3]"}
ENCODEC = {"loss__preset": "encodec", "loss__adversarial__windows": "[128, 64]", "loss__adversarial__start": "1"}
ENCODEC |= {"loss__terms": '{"mel": {"windows": [64, 128]}}'}


def configured(folder: Path, **changes: Any) -> TokenizerTrainConfig:
    options = {**OPTIONS, "run.folder": str(folder)}
    options |= {name.replace("__", "."): str(value) for name, value in changes.items()}
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    return parse(TokenizerTrainConfig, words, prog="test")


def test_a_run_by_encodecs_losses_resumes_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(configured(tmp_path / "one", **ENCODEC)) == 0

    def killed(config: Any, trained: Any, x_BCT: Any, step: int, **beside: Any) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        assert beside["valid"].shape == x_BCT.shape
        assert not (x_BCT * (1 - beside["valid"])).any()
        return original(config, trained, x_BCT, step, **beside)

    with monkeypatch.context() as patch:
        patch.setattr("stage1_tokenizer.training.loop.train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(configured(tmp_path / "two", **ENCODEC))
    assert train(configured(tmp_path / "two", **ENCODEC)) == 0
    one, two = checkpoint(tmp_path / "one", 4), checkpoint(tmp_path / "two", 4)
    assert {"tokenizer", "ema", "discriminator", "balance"} <= one.keys() == two.keys()
    assert one["balance"].keys() == {"waveform", "mel", "adversarial", "feature_matching"}
    assert one["balance"]["adversarial"][1] < one["balance"]["mel"][1], "it started later"
    for name in ("tokenizer", "ema", "discriminator", "balance"):
        assert all(torch.equal(tensor, two[name][key]) for key, tensor in one[name].items()), name
    last = [line for line in read(tmp_path / "one" / "metrics.jsonl") if line["kind"] == "train"][-1]
    assert {"loss/waveform", "loss/mel", "loss/feature_matching", "balance/mel", "balance/adversarial"} <= last.keys()
    assert "loss/rec" not in last
    assert "gan/weight" not in last
    shown = tmp_path / "one" / MEDIA["sounds"].shown
    assert (shown / "step-000000004.png").is_file()


def test_a_run_by_dacs_losses_is_measured(tmp_path: Path) -> None:
    assert train(configured(tmp_path, steps=2, **DAC)) == 0
    lines = read(tmp_path / "metrics.jsonl")
    (evaluated,) = [line for line in lines if line["kind"] == "eval"]
    assert {"eval/mel_distance", "eval/stft_distance", "eval/l1", "eval/bits_per_second"} <= evaluated.keys()
    assert evaluated["eval/bits_per_second"] == 2 * 4 * 8000 / 128
    last = [line for line in lines if line["kind"] == "train"][-1]
    assert {"loss/feature_matching", "loss/feature_matching_2", "loss/discriminator_2"} <= last.keys()
    assert (last["gan/weight"], last["gan/weight_2"]) == (2.0, 2.0)


def test_a_dry_run_counts_sounds() -> None:
    text = dry_run(configured(Path("unused"), **DAC))
    assert "a sound:" in text
    assert "a step: 4 sounds," in text
    assert "discriminator" in text
