from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data.cli import UserError
from stage1_tokenizer.evaluate import EvaluateConfig, evaluate
from stage1_tokenizer.release import ReleaseConfig, open_run, open_tokenizer, release
from stage1_tokenizer.tokenizer import Tokenizer
from stage1_tokenizer.train import TokenizerTrainConfig, train
from tests.stage1_tokenizer import tiny


def trained(folder: Path, **changes: object) -> None:
    from data.cli import parse

    train(parse(TokenizerTrainConfig, tiny.arguments(folder, **changes), prog="test"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "run"
    trained(folder, data__index=str(tiny.ROOT / tiny.TRAIN), data__held_out=str(tiny.ROOT / tiny.HELD_OUT))
    return folder


def test_a_released_folder_holds_the_averaged_weights(run: Path, tmp_path: Path):
    out = release(ReleaseConfig(run=str(run), out=str(tmp_path / "out"), licence="mit"))
    names = ["README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing temporary is left
    tokenizer = Tokenizer.from_pretrained(out)
    ema = torch.load(run / "checkpoints" / "step-000000008" / "ema.pt", weights_only=True)
    assert all(torch.equal(ema[name], weight) for name, weight in tokenizer.weights().items())
    assert tokenizer.fingerprint == open_tokenizer(str(run)).fingerprint == open_tokenizer(str(out)).fingerprint
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] == 20 and metrics["measured"]["fingerprint"] == tokenizer.fingerprint


def test_the_card_has_a_header_and_a_snippet_that_works(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = release(ReleaseConfig(run=str(run), out=str(tmp_path / "digits"), licence="mit"))
    card = (out / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit" and "image-tokenizer" in header["tags"]
    assert "Licence: MIT" in card and "PSNR (dB)" in card and "8×8 codes out of 32" in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet is not None
    Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.Tensor] = {}
    exec(snippet.group(1), names)
    assert names["idx_Bhw"].shape == (1, 8, 8) and names["recon_BCHW"].shape == (1, 1, 16, 16)


def test_measured_again_the_figures_are_those_of_the_file(run: Path, tmp_path: Path):
    path = tmp_path / "e.json"
    held_out = str(tiny.ROOT / tiny.HELD_OUT)
    evaluate(EvaluateConfig(tokenizer=str(run), data=held_out, out=str(path), samples=30, lpips=False))
    out = release(ReleaseConfig(run=str(run), out=str(tmp_path / "out"), metrics=str(path)))
    assert json.loads((out / "metrics.json").read_text())["samples"] == 30
    values = json.loads(path.read_text())
    values["measured"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="other weights"):
        release(ReleaseConfig(run=str(run), out=str(tmp_path / "other"), metrics=str(path)))
    assert not (tmp_path / "other").exists()


def test_what_is_there_is_left_alone(run: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists"):
        release(ReleaseConfig(run=str(run), out=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path):
    run = tmp_path / "run"
    trained(run, steps=4, data__index=str(tiny.ROOT / tiny.TRAIN), data__held_out="null", loss__adversarial__weight=0)
    newest = run / "checkpoints" / "step-000000004" / "ema.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    opened = open_run(run)
    assert opened.step == 2
    out = release(ReleaseConfig(run=str(run), out=str(tmp_path / "out")))
    assert "None were measured" in (out / "README.md").read_text()


def test_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not a run folder"):
        release(ReleaseConfig(run=str(tmp_path), out=str(tmp_path / "out")))
    (tmp_path / "config.yaml").write_text("model: {}\n")
    with pytest.raises(UserError, match="is not the run of a tokenizer"):
        release(ReleaseConfig(run=str(tmp_path), out=str(tmp_path / "out")))
