"""Malformed sounds, and sounds where pictures belong, through the commands: each refused with one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.index
import data.pack
import stage1_tokenizer.evaluate
import stage1_tokenizer.reconstruct
import stage1_tokenizer.train
import stage2_prior.encode
from data.sounds.config import SoundConfig
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.data.making import jpeg, picture_set, write_tar
from tests.data.sounds.making import encoded, sound_set, tone
from tests.stage1_tokenizer.small_sound import SOUND
from tests.test_malformed import Case, Command, edit, evil_pickle, refused

WORD = encoded(tone(0.1, 8000), 8000)
FLAC = encoded(np.random.default_rng(0).standard_normal(4000) / 9, 8000, "FLAC")
GAP = range(len(FLAC) // 2, len(FLAC) // 2 + 300)
VOCOS = ("--model.spatial_dims", "1", "--model.in_channels", "1", "--model.backbone", "vocos")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything as it should be: a tokenizer, shards of sounds and of pictures."""
    place = tmp_path_factory.mktemp("right")
    Tokenizer(SOUND["dac"], SoundConfig(sample_rate=8000, length=480)).eval().save_pretrained(place / "tokenizer")
    (place / "set").mkdir()
    sound_set(place / "set", [500, 90])
    picture_set(place / "pictures", [2])
    (place / "a.wav").write_bytes(WORD)
    return place


def sound(contents: bytes, name: str = "s.wav") -> Case:
    def spoil(place: Path) -> Command:
        (place / name).write_bytes(contents)
        return stage1_tokenizer.reconstruct, [str(place / name), *tokenizer(place)]

    return spoil


def tokenizer(place: Path, out: str = "out") -> list[str]:
    return ["--tokenizer", str(place / "tokenizer"), "--out", str(place / out)]


def prepared(**changes: Any) -> Case:
    """With another transform in the tokenizer's folder."""

    def spoil(place: Path) -> Command:
        file = place / "tokenizer" / "preprocessor_config.json"
        edit(file, {"transform": json.loads(file.read_text())["transform"] | changes})
        return stage1_tokenizer.reconstruct, [str(place / "a.wav"), *tokenizer(place)]

    return spoil


def measured(
    index: str, spoil: Callable[[Path], Any] = lambda _: None, module: Any = stage1_tokenizer.evaluate
) -> Case:
    """The tokenizer on an index, with something spoilt in its folder."""

    def whole(place: Path) -> Command:
        spoil((place / index).parent)
        return module, ["--data", str(place / index), *tokenizer(place)]

    return whole


def training(*words: str) -> Case:
    def whole(place: Path) -> Command:
        options = ["--data.index", str(place / "set/s.json"), "--data.transform.kind", "sounds", "--steps", "1"]
        return stage1_tokenizer.train, [*options, "--run.folder", str(place / "out"), *words]

    return whole


def packed(kind: str, files: dict[str, bytes], *words: str) -> Case:
    def spoil(place: Path) -> Command:
        for name, contents in files.items():
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "source" / name).write_bytes(contents)
        options = ["--kind", kind, "--processes", "1", *words]
        return data.pack, [str(place / "source"), str(place / "out"), *options]

    return spoil


def indexed(files: dict[str, bytes]) -> Case:
    def spoil(place: Path) -> Command:
        write_tar(place / "t.tar", [("a", files)])
        return data.index, [str(place / "t.tar"), str(place / "out"), "--media", "sounds"]

    return spoil


CASES: dict[str, tuple[Case, str]] = {
    # files
    "no bytes": (sound(b""), r"s\.wav can't be used as a sound \(no bytes\)"),
    "HTML": (sound(b"<html>404 not found</html>"), "not a sound of a known format"),
    "a picture": (sound(jpeg(1)), "not a sound of a known format"),
    "a pickle": (lambda place: sound(evil_pickle(place))(place), "not a sound of a known format"),
    "M4A": (sound(b"\0\0\0\x18ftypM4A " + bytes(80), "s.m4a"), "m4a sounds can't be decoded"),
    "a WAV cut off in its header": (sound(WORD[:30]), "can't be opened"),
    "a WAV without a sample": (sound(encoded(np.zeros(0))), "it has no samples"),
    "a WAV with NaN": (sound(encoded(np.array([0.1, np.nan]), 8000, "WAV", "FLOAT")), "NaN or infinite"),
    "a WAV of 80 channels": (sound(encoded(np.zeros((9, 80)))), "80 channels are more than 64"),
    "a WAV at 3 MHz": (sound(encoded(np.zeros(9), 3_000_000)), "its rate is 3000000 Hz"),
    "a FLAC cut off": (sound(FLAC[: len(FLAC) // 2], "s.flac"), "can't be decoded"),
    "a FLAC with a gap": (sound(FLAC[: GAP.start] + bytes(len(GAP)) + FLAC[GAP.stop :], "s.flac"), "can't be decoded"),
    "a file that is not there": (
        lambda place: (stage1_tokenizer.reconstruct, [str(place / "b.wav"), *tokenizer(place)]),
        r"b\.wav can't be used as a sound \(No such file",
    ),
    # a tokenizer's settings
    "a sample rate of -1": (prepared(sample_rate=-1), "transform.sample_rate=-1 is out of range"),
    "a length that is a text": (prepared(length="long"), "preprocessor_config.json can't be read"),
    "a transform of an unknown kind": (prepared(kind="smells"), "choose one of pictures, sounds"),
    "a transform with a picture's setting": (prepared(size=32), "unknown keys size"),
    # shards
    "an index of pictures": (measured("pictures/set.json"), "holds pictures, not sounds"),
    "an index of pictures to encode": (
        measured("pictures/set.json", module=stage2_prior.encode),
        "holds pictures, not sounds",
    ),
    "an index of an unknown kind": (
        measured("set/s.json", lambda place: edit(place / "s.json", {"kind": "smells"})),
        "holds smells, not sounds",
    ),
    "an index without its shards": (
        measured("set/s.json", lambda place: (place / "s-0.tar").unlink()),
        "missing shard",
    ),
    "a tar of pictures": (indexed({"jpg": jpeg(1)}), "no sounds in .*: 1 jpg"),
    # training
    "a transform of no known kind": (training("--data.transform.kind", "smells"), "choose one of pictures, sounds"),
    "a picture's setting in a transform of sounds": (training("--data.transform.size", "32"), "data.transform.size"),
    "networks for pictures on sounds": (training(), "spatial_dims"),
    "a clip that the hop does not divide": (training("--data.transform.length", "1001", *VOCOS), "length=1001"),
    "two kinds of transform": (training("--data.transform.kind", "pictures"), "given as pictures and as sounds"),
    # packing
    "a folder of pictures": (packed("folder", {"a.jpg": jpeg(1)}, "--media", "sounds"), "no sound by its first bytes"),
    "LJSpeech without its list": (packed("ljspeech", {"wavs/a.wav": WORD}), "metadata.csv is missing"),
    "ESC-50 whose fold is a word": (
        packed("esc50", {"meta/e.csv": b"filename,fold,category\na.wav,one,dog\n"}),
        "a fold that is no number",
    ),
    "VCTK without speakers": (packed("vctk", {"wav48/a.wav": WORD}), "not in a speaker's folder"),
    "a rate that no sound has": (
        packed("folder", {"a.wav": WORD}, "--media", "sounds", "--sound.sample_rate", "3"),
        "sound.sample_rate=3 is out of range",
    ),
}
"""What is wrong, and words of the line that tells it."""


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_one_line(
    name: str, right: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    shutil.copytree(right, place)
    monkeypatch.chdir(place)
    case, words = CASES[name]
    told = refused(case(place), place, monkeypatch, capfd)
    assert re.search(words, told), told
