"""`stage1_tokenizer.compare --prior small`: the commands of stage two that it starts, here in this process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from launch.command.cli import UserError
from launch.stages import runner
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.config.comparison import PERTURBED, PERTURBED_NAME, CompareConfig
from stage1_tokenizer.measuring.comparison import table
from stage1_tokenizer.measuring.perturbed import PerturbedSums
from stage1_tokenizer.measuring.small_prior import judged, steps
from tests.commands import call
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import write_tokenizer


def test_each_tokenizers_codes_get_the_same_small_prior_whose_samples_are_measured(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def here(line: list[str]) -> int:
        words = line[2:]  # without python -m
        words = words[3:] if words[0] == "launch.local" else words
        started.append(words[0])
        code, said = call(words[0], words[1:])
        assert code == 0, said
        return code

    monkeypatch.setattr(runner, "_run", here)
    small = {"model.layers": "1", "model.width": "16", "model.heads": "2", "data.batch_size": "8"}
    config = CompareConfig(
        recipe="", train=coded.pictures, held_out=coded.held_out, out=str(tmp_path), prior="small", prior_steps=4,
        prior_samples=5, prior_options=small,
    )  # fmt: skip
    tokenizer = Tokenizer.from_pretrained(coded.tokenizer)
    found = judged(config, "vqgan", tokenizer)
    assert started == [f"stage2_prior.{name}" for name in ("encode", "encode", "train", "sample", "evaluate")]
    assert found["prior_samples"] == 6, "two of each class"
    assert 0 < found["prior_bits_per_code"] < 6 and found["prior_frechet_vgg16"] > 0
    assert judged(config, "vqgan", tokenizer) == found and len(started) == 5, "what is done is reused"
    other = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "other", seed=3))
    with pytest.raises(UserError, match=r"holds another tokenizer: delete .*vqgan, or choose another out"):
        judged(config, "vqgan", other)
    network: Any = SimpleNamespace(names={"frechet": "frechet_vgg16"}, widths={"pool": 1})
    assert PerturbedSums(tokenizer, network, torch.device("cpu"), *PERTURBED.values()).name == PERTURBED_NAME
    about = {"lpips": "vgg", "data": {"name": "halves"}, "commit": "abc", "hardware": "a CPU", "date": "2026-11-29"}
    figures = {"psnr": 20.0, "frechet_vgg16": 3.0, "samples": 18, "measured": about}
    text = table({"vae": figures, "vqgan": figures | found | {PERTURBED_NAME: 4.0}}, 12)
    assert "| Fréchet (VGG16) | a fifth of the codes wrong | of the prior's samples | prior's bits/code |" in text
    assert "| vae | 20.00 | – | – | – | – | – | 3.0 | – | – | – |" in text
    assert "18 pictures of `halves`; LPIPS vgg; 6 samples of each small prior; commit" in text
    assert "prior" not in table({"vqgan": figures}, 12)


def test_the_kind_of_prior_and_its_condition_follow_from_codes_and_data(coded: Coded, tmp_path: Path) -> None:
    config = CompareConfig(recipe="", train=coded.pictures, held_out=coded.held_out, out=str(tmp_path), prior="small")
    for quantizer, kind in (("vq", "autoregressive"), ("residual", "autoregressive"), ("multiscale", "multiscale")):
        arguments = steps(config, tmp_path, quantizer)[2].arguments
        assert arguments[arguments.index("--model.kind") + 1] == kind
        assert arguments[arguments.index("--model.condition") + 1] == "class"
