"""Fine-tuning: a run that begins with a converted tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from launch.command.cli import UserError, parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.foreign import discriminator as foreign
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage1_tokenizer.training.fine_tuning import with_model
from tests.stage1_tokenizer import tiny
from tests.stage1_tokenizer.foreign import peer_layouts
from tests.stage1_tokenizer.publishing.test_convert import SMALL, run, saved, state

OPTIONS: dict[str, Any] = {
    **{name: value for name, value in tiny.OPTIONS.items() if not name.startswith("model.")},
    "data.index": str(tiny.ROOT / tiny.TRAIN),
    "data.held_out": "null",
    "data.batch_size": "2",
    "data.transform.channels": "3",
    "loss.adversarial.channels": "8",
    "loss.adversarial.start": "0",
    "optimizer.decay": "constant",
    "steps": "2",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A peer's tokenizer with its discriminator."""
    folder = tmp_path_factory.mktemp("converted")
    judged = state(peer_layouts.patchgan(8, 1), seed=1)
    content = {"model": state(peer_layouts.llamagen(SMALL)), "discriminator": judged}
    return run(saved(folder, content), folder / "tokenizer", "--from", "llamagen", "--size", "16")


def configured(folder: Path, init: Path, *more: str, **changes: str) -> TokenizerTrainConfig:
    options = {**OPTIONS, "run.folder": str(folder), "init": str(init), **changes}
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    return parse(TokenizerTrainConfig, with_model([*words, *more]), prog="test")


def test_a_run_begins_with_the_weights_and_never_reads_them_again(converted: Path, tmp_path: Path):
    init, folder = shutil.copytree(converted, tmp_path / "init"), tmp_path / "run"
    config = configured(folder, init, **{"optimizer.learning_rate": "1e-9"})
    assert config.model == Tokenizer.from_pretrained(init).config
    assert train(config) == 0
    first = Tokenizer.from_pretrained(init)
    now = open_run(folder).tokenizer.weights()
    assert all(torch.allclose(now[name], weight, atol=1e-6) for name, weight in first.weights().items())
    checkpoint = folder / "checkpoints" / "step-000000002"
    judged, carried = torch.load(checkpoint / "discriminator.pt", weights_only=True), foreign.load(init)
    assert carried is not None
    assert all(torch.allclose(judged[name], weight, atol=1e-6) for name, weight in carried.items())
    told = json.loads((folder / "run.json").read_text())["init"]
    assert told == {"folder": str(init), "fingerprint": first.fingerprint, "discriminator": "from there too"}
    assert f"fingerprint {first.fingerprint}" in (folder / "log.txt").read_text()

    shutil.rmtree(init)
    again = ["--config", str(folder / "config.yaml"), "--steps", "3"]
    assert train(parse(TokenizerTrainConfig, with_model(again), prog="test")) == 0
    assert open_run(folder).step == 3
    starts = json.loads((folder / "run.json").read_text())["starts"]
    assert ["init" in start for start in starts] == [True, False]


def test_it_learns_from_there(converted: Path, tmp_path: Path):
    train(configured(tmp_path, converted, "--model.dropout", "0.1", "--model.quantizer.learning", "moving_average"))
    opened, first = open_run(tmp_path).tokenizer, Tokenizer.from_pretrained(converted)
    changed = [not torch.equal(opened.weights()[name], weight) for name, weight in first.weights().items()]
    assert sum(changed) > len(changed) / 2
    assert opened.config.dropout == 0.1 and opened.config.quantizer.l2_normalise


def test_the_decoder_alone_learns_by_choice(converted: Path, tmp_path: Path):
    train(configured(tmp_path, converted, "--freeze", "[encoder, quantizer]", **{"optimizer.ema_decay": "0"}))
    tuned, first = open_run(tmp_path).tokenizer, Tokenizer.from_pretrained(converted)
    x_BCHW = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(tuned.encode(x_BCHW), first.encode(x_BCHW))
    assert not torch.allclose(tuned.decode(first.encode(x_BCHW)), first.decode(first.encode(x_BCHW)), atol=1e-3)


def test_a_discriminator_that_does_not_fit_is_said(converted: Path, tmp_path: Path):
    train(configured(tmp_path, converted, **{"loss.adversarial.channels": "4", "steps": "1"}))
    assert "differs at main.0.weight, (8, 3, 4, 4) instead of (4, 3, 4, 4)" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--model.channels", "64"), r"^model\.channels=64 differs from 32, that of init=.*: remove it"),
        (("--model.quantizer.codebook_size", "32"), r"^model\.quantizer\.codebook_size=32 differs from 16"),
        (("--init", "nowhere"), r"^init=nowhere is no tokenizer: name a folder that"),
    ],
)
def test_what_does_not_agree_is_one_line(option: tuple[str, str], message: str, converted: Path, tmp_path: Path):
    with pytest.raises(UserError, match=message) as told:
        train(configured(tmp_path / "run", converted, *option))
    assert "\n" not in str(told.value) and not (tmp_path / "run").exists()


def test_a_configuration_file_may_name_it(converted: Path, tmp_path: Path):
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump({"init": str(converted), "steps": 7}))
    words = ["--config", str(tmp_path / "tune.yaml"), "--run.folder", "run", "--data.index", "i.json"]
    config = parse(TokenizerTrainConfig, with_model([*words, "--data.transform.size=64"]), prog="test")
    assert config.model.channels == 32 and config.steps == 7
    assert with_model(["--steps", "3"]) == ["--steps", "3"]
