"""Malformed videos, and videos where pictures belong, through the commands: each refused with one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import data.index
import data.pack
import stage1_tokenizer.evaluate
import stage1_tokenizer.reconstruct
import stage1_tokenizer.train
import stage2_prior.encode
from data.videos.config import VideoConfig
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.data.making import jpeg, picture_set, write_tar
from tests.data.videos.making import clip, film, numbered, video_set
from tests.stage1_tokenizer.small_videos import CAUSAL
from tests.test_malformed import Case, Command, edit, evil_pickle, refused
from tests.test_malformed_sounds import measured, packed, tokenizer

MP4 = film([numbered(i) for i in range(9)], bf="2")
WEBP = clip(0, 5)
NETWORK = ("--model.spatial_dims", "3", "--model.video.causal", "true")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything as it should be: a tokenizer, shards of videos and of pictures."""
    place = tmp_path_factory.mktemp("right")
    transform = VideoConfig(size=16, channels=1, frames=5)
    Tokenizer(CAUSAL["conv"], transform).eval().save_pretrained(place / "tokenizer")
    (place / "set").mkdir()
    video_set(place / "set", [6, 5])
    picture_set(place / "pictures", [2])
    (place / "a.webp").write_bytes(WEBP)
    return place


def video(contents: bytes, name: str = "s.mp4") -> Case:
    def spoil(place: Path) -> Command:
        (place / name).write_bytes(contents)
        return stage1_tokenizer.reconstruct, [str(place / name), *tokenizer(place)]

    return spoil


def prepared(**changes: Any) -> Case:
    """With another transform in the tokenizer's folder."""

    def spoil(place: Path) -> Command:
        file = place / "tokenizer" / "preprocessor_config.json"
        edit(file, {"transform": json.loads(file.read_text())["transform"] | changes})
        return stage1_tokenizer.reconstruct, [str(place / "a.webp"), *tokenizer(place)]

    return spoil


def training(*words: str) -> Case:
    def whole(place: Path) -> Command:
        options = ["--data.index", str(place / "set/v.json"), "--data.transform.kind", "videos", "--steps", "1"]
        return stage1_tokenizer.train, [*options, "--run.folder", str(place / "out"), *words]

    return whole


def indexed(files: dict[str, bytes]) -> Case:
    def spoil(place: Path) -> Command:
        write_tar(place / "t.tar", [("a", files)])
        return data.index, [str(place / "t.tar"), str(place / "out"), "--media", "videos"]

    return spoil


def mixed(place: Path) -> Command:
    """Videos beside an index of pictures: not the other way round."""
    mixture = json.dumps({str(place / "set/v.json"): 1.0})
    options = ["--data.index", str(place / "pictures/set.json"), "--data.mixture", mixture, "--steps", "1"]
    return stage1_tokenizer.train, [*options, "--data.batch_size", "2", "--run.folder", str(place / "out")]


CASES: dict[str, tuple[Case, str]] = {
    # files
    "no bytes": (video(b""), r"s\.mp4 can't be used as a video \(no bytes\)"),
    "HTML": (video(b"<html>404 not found</html>"), "not a video of a known format"),
    "a pickle": (lambda place: video(evil_pickle(place))(place), "not a video of a known format"),
    "a playlist": (video(b"#EXTM3U\nfile:///etc/passwd\n"), "not a video of a known format"),
    "FLV": (video(b"FLV\x01" + bytes(90)), "flv videos can't be decoded"),
    "an MP4 cut off": (video(MP4[: len(MP4) // 2]), "can't be opened"),
    "an MP4 of sound alone": (video(MP4[:4] + b"ftypisom" + bytes(90)), "can't be opened"),
    "a WebP cut off": (video(WEBP[:300], "s.webp"), "can't be opened|can't be decoded"),
    "a GIF cut off in its header": (video(b"GIF89a\x01\0", "s.gif"), "can't be opened"),
    "an AVI of nothing": (video(b"RIFF\x10\0\0\0AVI LIST" + bytes(20), "s.avi"), "can't be opened|it has no"),
    "frames too large": (
        video(b"GIF89a\x10\x27\xe0\x2e\0\0\0,\0\0\0\0\x10\x27\xe0\x2e\0\x02\x01\x2c\0;", "s.gif"),
        r"10000x12000 pixels are more than max_pixels",
    ),
    # a tokenizer's settings
    "no frames": (prepared(frames=0), "transform.frames=0"),
    "frames that are a text": (prepared(frames="all"), "preprocessor_config.json can't be read"),
    "a transform with a sound's setting": (prepared(sample_rate=8000), "unknown keys sample_rate"),
    # shards
    "an index of pictures": (measured("pictures/set.json"), "holds pictures, not videos"),
    "an index of pictures to encode": (
        measured("pictures/set.json", module=stage2_prior.encode),
        "holds pictures, not videos",
    ),
    "an index without its shards": (
        measured("set/v.json", lambda place: (place / "v-0.tar").unlink()),
        "missing shard",
    ),
    "a tar of pictures": (indexed({"jpg": jpeg(1)}), "no videos in .*: 1 jpg"),
    # training
    "a sound's setting in a transform of videos": (training("--data.transform.length", "32"), "data.transform.length"),
    "networks for pictures on videos": (training(), "spatial_dims"),
    "frames and seconds": (
        training("--data.transform.stride", "2", "--data.transform.frame_rate", "8", *NETWORK),
        r"stride=2 counts frames and transform\.frame_rate=8 seconds",
    ),
    "videos beside pictures": (mixed, r"holds videos, not pictures"),
    # packing
    "a folder of pictures": (packed("folder", {"a.jpg": jpeg(1)}, "--media", "videos"), "no video by its first bytes"),
    "Kinetics without tables": (packed("kinetics", {"a_000000_000010.mp4": MP4}), "no table with youtube_id"),
    "UCF-101 of other names": (packed("ucf101", {"Run/a.avi": WEBP}), "not CLASS/v_CLASS_gNN_cNN"),
    "BAIR without records": (packed("bair", {"train/a.webp": WEBP}), "no train/\\*.tfrecords"),
    "digits that are none": (packed("moving_digits", {"a.png": jpeg(1)}), "no train.json of pictures"),
    "a quality that there isn't": (
        packed("folder", {"a.mp4": MP4}, "--media", "videos", "--video.quality", "60"),
        "video.quality=60 is out of range",
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
