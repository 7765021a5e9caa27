from __future__ import annotations

import io
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from launch.command.cli import UserError
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer as evaluate
from stage1_tokenizer.publishing.folder import check_release
from stage1_tokenizer.release import ReleaseConfig, release
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_run, open_tokenizer
from stage1_tokenizer.train import TokenizerTrainConfig, train
from tests.stage1_tokenizer import tiny


def trained(folder: Path, **changes: object) -> None:
    from launch.command.cli import parse

    train(parse(TokenizerTrainConfig, tiny.arguments(folder, **changes), prog="test"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "run"
    trained(folder, data__index=str(tiny.ROOT / tiny.TRAIN), data__held_out=str(tiny.ROOT / tiny.HELD_OUT))
    return folder


@pytest.fixture(scope="module")
def out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's release, with all that can be in one."""
    place = tmp_path_factory.mktemp("released")
    release(settings(run, place / "digits", name="digits", discriminator=True, limits="Digits only."))
    assert [path.name for path in place.iterdir()] == ["digits"]  # nothing temporary is left
    return place / "digits"


def settings(run: Path, out: Path, **changes: Any) -> ReleaseConfig:
    return ReleaseConfig(**{"run": str(run), "out": str(out), "licence": "mit", **changes})


def test_a_released_folder_holds_the_averaged_weights(run: Path, out: Path):
    files = {path.name for path in out.iterdir()}
    names = {"README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"}
    assert names | {"discriminator.safetensors", "reconstructions.png", "modeling_vqloom.py"} <= files
    assert all(name.endswith(".py") for name in files - names - {"discriminator.safetensors", "reconstructions.png"})
    tokenizer = Tokenizer.from_pretrained(out)
    saved = run / "checkpoints" / "step-000000008"
    ema = torch.load(saved / "ema.pt", weights_only=True)
    assert all(torch.equal(ema[name], weight) for name, weight in tokenizer.weights().items())
    discriminator = torch.load(saved / "discriminator.pt", weights_only=True)
    assert all(
        torch.equal(discriminator[name], weight)
        for name, weight in load_file(out / "discriminator.safetensors").items()
    )
    assert tokenizer.fingerprint == open_tokenizer(str(run)).fingerprint == open_tokenizer(str(out)).fingerprint
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] == 20 and metrics["measured"]["fingerprint"] == tokenizer.fingerprint


def test_the_card_has_valid_metadata_and_code_that_works(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "mit" and "image-tokenizer" in card.data.tags and card.data.library_name
    figures = json.loads((out / "metrics.json").read_text())
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        key: round(figures[key], 6) for key in ("psnr", "ssim") if key in figures
    }
    text = card.text
    assert "Licence: MIT" in text and "PSNR (dB)" in text and "8×8 codes out of 32" in text and "- Digits only." in text
    assert "](reconstructions.png)" in text and Image.open(out / "reconstructions.png").width > 100
    foreign, ours = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "AutoModel" in foreign and "vqloom" not in foreign
    Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").symlink_to(out)
    names: dict[str, Any] = {}
    exec(ours, names)
    assert names["codes"].shape == (1, 8, 8) and Image.open("reconstruction.png").size == (16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": None}, "licence is not set"),
        ({"licence": "Apache 2"}, "licence=Apache 2 is not a licence identifier of the Hub: set it to apache-2.0"),
        ({"licence": "unknown"}, "licence=unknown is not"),
        ({"push": "mine"}, "push=mine is not a repository's name"),
    ],
)
def test_settings_are_checked_first(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        settings(Path("run"), Path("out"), **changes)


def test_pickles_are_refused(out: Path, tmp_path: Path):
    check_release(out)
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    for name, contents in (("notes.dat", pickle.dumps([1])), ("pytorch_model.bin", b""), ("extra.zip", zipped())):
        (copy / name).write_bytes(contents)
        with pytest.raises(UserError, match=f"{name} is a pickle"):
            check_release(copy)
        (copy / name).unlink()
    (copy / "metrics.json").write_text('{"measured": {}}')
    with pytest.raises(UserError, match="has no figures"):
        check_release(copy)


def zipped() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, file)
    return file.getvalue()


def test_given_figures_are_taken_from_the_file(run: Path, tmp_path: Path):
    path = tmp_path / "e.json"
    held_out = str(tiny.ROOT / tiny.HELD_OUT)
    evaluate(EvaluateConfig(tokenizer=str(run), data=held_out, out=str(path), samples=30, lpips=False))
    out = release(settings(run, tmp_path / "out", metrics=str(path)))
    assert json.loads((out / "metrics.json").read_text())["samples"] == 30
    values = json.loads(path.read_text())
    values["measured"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="other weights"):
        release(settings(run, tmp_path / "other", metrics=str(path)))
    assert not (tmp_path / "other").exists()


def test_an_existing_folder_is_not_touched(run: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists"):
        release(settings(run, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_damaged_checkpoint_is_skipped(tmp_path: Path):
    run = tmp_path / "run"
    trained(run, steps=4, data__index=str(tiny.ROOT / tiny.TRAIN), data__held_out="null", loss__adversarial__weight=0)
    newest = run / "checkpoints" / "step-000000004" / "ema.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    opened = open_run(run)
    assert opened.step == 2
    with pytest.raises(UserError, match="was not evaluated at its newest checkpoint"):
        release(settings(run, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not a run folder"):
        release(settings(tmp_path, tmp_path / "out"))
    (tmp_path / "config.yaml").write_text("model: {}\n")
    with pytest.raises(UserError, match="is not a tokenizer's run"):
        release(settings(tmp_path, tmp_path / "out"))
