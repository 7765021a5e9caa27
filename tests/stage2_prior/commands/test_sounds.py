"""Stage two for sounds, command by command: encode, train, sample, continue, evaluate, release."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from data.reading.stream import every_code, every_sample
from data.shards.loading import load_index
from data.sounds.batches import to_float
from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.config.model import PriorModelConfig, TextConfig
from stage2_prior.config.sampling import InpaintConfig, SampleConfig
from stage2_prior.encode import encode
from stage2_prior.inpaint import inpaint
from stage2_prior.measuring.evaluation import evaluate
from stage2_prior.measuring.sound_classifier import features
from stage2_prior.priors.build import load_prior
from stage2_prior.release import ReleaseConfig, release
from stage2_prior.sample import sample
from stage2_prior.train import train
from stage2_prior.web.sounds import SoundDemo, page
from tests.stage1_tokenizer import tiny
from tests.stage2_prior.commands.test_train import settings
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.sounds import (
    BOOKS,
    CLASSES,
    CODES,
    LENGTH,
    RATE,
    TRANSFORM,
    tone,
    write_sounds,
    write_tokenizer,
)

PLACES = LENGTH // 16


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Coded:
    place = tmp_path_factory.mktemp("sounds")
    train_set = write_sounds(place / "train", shards=2, each=14)
    held_out = write_sounds(place / "held_out", shards=1, each=8, seed=1)
    tokenizer = write_tokenizer(place / "tokenizer")
    for name, index in (("codes", train_set), ("held", held_out)):
        assert encode(EncodeConfig(tokenizer=tokenizer, data=index, out=str(place / name), verify=2)) == 0
    indexes = (str(place / name / "index.json") for name in ("codes", "held"))
    return Coded(train_set, held_out, tokenizer, *indexes)


def model(kind: str, **changes: Any) -> PriorModelConfig:
    return PriorModelConfig(kind=kind, layers=1, depth_layers=1, width=16, heads=2, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(sounds: Coded, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prior") / "run"
    assert train(settings(sounds, folder, model=model("delay"), steps=4)) == 0
    return str(folder)


@pytest.fixture(scope="module")
def drawn(sounds: Coded, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "samples"
    assert sample(SampleConfig(prior=run, tokenizer=sounds.tokenizer, out=str(out), count=3, batch_size=4)) == 0
    return out


def test_codes_are_those_of_the_prepared_clips(sounds: Coded) -> None:
    index = load_index(sounds.held_out_codes)
    source = CodeSource.of_index(index, "")
    assert source.kind == "sounds" and source.shape == (BOOKS, PLACES) and source.grid == (PLACES,)
    assert sum(index.meta["histogram"]) == 8 * BOOKS * PLACES and len(index.meta["histogram"]) == BOOKS * CODES
    clips = next(every_sample(sounds.held_out, TRANSFORM, batch_size=8))
    codes = next(every_code(sounds.held_out_codes, batch_size=8))
    tokenizer = Tokenizer.from_pretrained(sounds.tokenizer)
    assert codes.keys == clips.keys and codes.captions == clips.captions and codes.captions[0]
    assert torch.equal(codes.idx_Bhw, tokenizer.encode(to_float(clips.samples_BCT)))
    shown = Image.open(Path(sounds.held_out_codes).parent / "verify.png")
    assert shown.size == (256, 2 * 128), "spectrograms of a clip and its decoded codes"


@pytest.mark.parametrize(
    "kind",
    [
        model("autoregressive"),
        model("masked"),
        model("depth", delays=[0, 1, 1], per_level_weights=True),
        model("delay", condition="text", text=TextConfig(tokens=12, layers=1)),
        model("delay", condition="none"),
    ],
    ids=["autoregressive", "masked", "depth", "text", "none"],
)
def test_every_kind_and_condition_trains_and_samples(sounds: Coded, kind: PriorModelConfig, tmp_path: Path) -> None:
    assert train(settings(sounds, tmp_path / "run", model=kind, steps=2)) == 0
    prompt = "a low tone" if kind.condition == "text" else None
    config = SampleConfig(
        prior=str(tmp_path / "run"),
        tokenizer=sounds.tokenizer,
        out=str(tmp_path / "out"),
        count=1,
        prompt=prompt,
        steps=3,
    )
    assert sample(config) == 0
    names = {"text": ["0000 a low tone"], "none": ["all"], "class": list(CLASSES)}[kind.condition]
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/*.flac")) == sorted(names)


def test_samples_are_flac_with_spectrograms_and_are_what_the_codes_decode_to(sounds: Coded, drawn: Path) -> None:
    described = json.loads((drawn / "samples.json").read_text())
    assert described["sounds"] == 6 and described["complete"] and "pictures" not in described
    codes = np.concatenate([np.load(path) for path in sorted((drawn / "codes").iterdir())]).astype(np.int64)
    y_BCT = Tokenizer.from_pretrained(sounds.tokenizer).decode(torch.from_numpy(codes))
    for place in range(6):
        file = drawn / CLASSES[place % 2] / f"{place // 2:05d}.flac"
        found_T, rate = soundfile.read(file, dtype="int16")
        assert rate == RATE and found_T.shape == (LENGTH,)
        expected_T = (y_BCT[place, 0] * 32768).round().clamp(-32768, 32767)
        assert np.abs(found_T - expected_T.numpy()).max() <= 1
        assert Image.open(file.with_suffix(".png")).size == (256, 128)
    assert Image.open(drawn / "grid.png").size == (3 * 258 - 2, 2 * 130 - 2)


def test_an_interrupted_sampling_goes_on_and_other_batches_give_the_same(
    sounds: Coded, run: str, drawn: Path, tmp_path: Path
) -> None:
    config = SampleConfig(prior=run, tokenizer=sounds.tokenizer, out=str(tmp_path / "out"), count=3, batch_size=4)
    assert sample(config) == 0
    lost = tmp_path / "out" / CLASSES[1] / "00002.flac"
    lost.unlink()
    assert sample(config) == 0
    for file in sorted(drawn.glob("*/*.flac")):
        assert (tmp_path / "out" / file.relative_to(drawn)).read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match="npz=true is for pictures, but the prior is of sounds"):
        sample(replace(config, npz=True, out=str(tmp_path / "npz")))


def test_a_given_sound_is_continued(sounds: Coded, run: str, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    x_T = tone(1, np.random.default_rng(3))
    soundfile.write(folder / "one.wav", x_T, RATE)
    config = InpaintConfig(
        prior=run,
        tokenizer=sounds.tokenizer,
        out=str(tmp_path / "out"),
        given=str(folder),
        keep="start",
        share=0.25,
        count=2,
    )
    assert inpaint(config) == 0
    tokenizer = Tokenizer.from_pretrained(sounds.tokenizer)
    given_BGT = tokenizer.encode(torch.from_numpy(soundfile.read(folder / "one.wav", dtype="float32")[0])[None, None])
    codes_BGT = np.load(tmp_path / "out" / "codes" / "000000.npy")
    kept = PLACES // 4
    assert (codes_BGT[..., :kept] == given_BGT[..., :kept].numpy()).all()
    assert (codes_BGT[..., kept:] != given_BGT[..., kept:].numpy()).any()
    hole_T, _ = soundfile.read(tmp_path / "out" / "0000 one" / "hole.flac")
    assert (hole_T[LENGTH // 4 :] == 0).all() and np.abs(hole_T[: LENGTH // 4]).max() > 0.3
    assert inpaint(replace(config, given=sounds.held_out, limit=2, out=str(tmp_path / "index"))) == 0
    for wrong, words in (
        ({"keep": "end"}, "keeps codes after the hole.*from start to end.*set keep to start"),
        ({"keep": "left"}, "keep=left is for pictures and videos: set it to one of start, end, ends, middle, border"),
        ({"mask": "m.png", "keep": "top", "share": 0.5}, "mask=m.png is for pictures"),
        ({"given": str(tmp_path / "out" / "codes")}, "is no sound and holds none"),
    ):
        with pytest.raises(UserError, match=words):
            inpaint(replace(config, out=str(tmp_path / "wrong"), **wrong))  # type: ignore[arg-type]


def test_samples_are_evaluated_by_a_classifier_of_mel_features(
    sounds: Coded, run: str, drawn: Path, tmp_path: Path
) -> None:
    config = EvaluateConfig(
        prior=run,
        out=str(tmp_path / "figures.json"),
        codes=sounds.held_out_codes,
        samples=str(drawn),
        data=sounds.pictures,
        held_out=sounds.held_out,
    )
    figures = evaluate(config)
    assert figures["real_accuracy"] == 1.0 and figures["real_samples"] == 8, "tones of two heights are told apart"
    assert 0 <= figures["class_agreement"] <= 1 and figures["samples"] == 6 and "mel bands" in figures["classifier"]
    with pytest.raises(UserError, match=r"reference=.* is for pictures and videos, not for sounds"):
        evaluate(replace(config, reference=sounds.held_out))


def test_features_are_of_the_sound_and_not_of_its_loudness_or_length() -> None:
    random = np.random.default_rng(0)
    x_T = (tone(0, random, LENGTH) * 20000).astype(np.int16)
    padded_BCT = np.stack(
        [np.pad(x_T, (0, LENGTH)), np.pad(x_T, (LENGTH // 2, LENGTH // 2)), np.pad(x_T // 4, (0, LENGTH))]
    )
    found_BF = features(padded_BCT[:, None], RATE)
    other_BF = features((tone(1, random, 2 * LENGTH) * 20000).astype(np.int16)[None, None], RATE)
    assert np.isfinite(features(np.zeros((2, 1, LENGTH), np.int16), RATE)).all()
    near, far = np.abs(found_BF - found_BF[0]).mean(), np.abs(other_BF - found_BF[0]).mean()
    assert near < far / 4


def test_a_release_tells_of_sounds(sounds: Coded, run: str, tmp_path: Path) -> None:
    out = release(ReleaseConfig(prior=run, out=str(tmp_path / "prior"), tokenizer=sounds.tokenizer, licence="mit"))
    assert load_prior(out).source.kind == "sounds"
    card = (out / "README.md").read_text()
    assert f"{BOOKS}×{PLACES} codes out of {CODES}" in card and "image-generation" not in card


@pytest.mark.parametrize(
    ("changes", "words"), [({"crops": 5}, "crops is for pictures"), ({"flip": True}, "flip is for pictures")]
)
def test_variants_of_pictures_are_refused(sounds: Coded, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        encode(EncodeConfig(tokenizer=sounds.tokenizer, data=sounds.pictures, out=str(tmp_path / "codes"), **changes))


def test_what_the_buttons_of_the_demo_do(sounds: Coded, run: str, tmp_path: Path) -> None:
    demo = SoundDemo(Tokenizer.from_pretrained(sounds.tokenizer), load_prior(run))
    file = tmp_path / "one.wav"
    soundfile.write(file, tone(1, np.random.default_rng(3)), RATE)
    (rate, x_TC), spectrum, (_, y_TC), _, told = demo.reconstruct(str(file), 2)
    assert rate == RATE and x_TC.shape == y_TC.shape == (LENGTH, 1) and spectrum.size == (256, 128)
    bits = 2 * PLACES * math.log2(CODES) * RATE / LENGTH
    assert f"{2 * PLACES} codes" in told and f"{bits:.0f} bits a second" in told and "dB" in told
    *players, pictures = demo.sample(CLASSES[0], 2, 2.0, 1.0, 0)
    assert [player is None for player in players] == [False, False, True, True] and len(pictures) == 2  # type: ignore[arg-type]
    blocks = page(demo, "tones", str(file))
    labels = {component.label for component in blocks.blocks.values() if hasattr(component, "label")}
    assert {"reconstruction", "codebooks", "sample 4", "spectrograms"} <= labels
    with pytest.raises(UserError, match="the demo needs a tokenizer of sounds"):
        SoundDemo(tiny.tokenizer(), None)
