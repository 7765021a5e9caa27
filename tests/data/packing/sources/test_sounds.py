"""Packing sounds: folders, the layouts of well-known sets, Parquet and tars; what is converted and what is left out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data.pack import PackConfig, main, pack, plan
from data.packing.sources import open_source
from data.reading.stream import every_sample
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError
from data.sounds.config import SoundConfig, SoundConvertConfig
from data.sounds.convert import convert
from data.sounds.files import SoundFile
from launch.command.cli import UserError
from tests.data.archives import members
from tests.data.making import jpeg, write_tar
from tests.data.sounds.making import encoded, ramp, tone

WORD = encoded(tone(0.1, 8000), 8000)


def put(path: Path, contents: bytes | str = WORD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return path


def packed(source: Path, out: Path, kind: str, **options: Any) -> dict[str, dict[str, bytes]]:
    """All members of the shards of each split."""
    config = PackConfig(source=str(source), out=str(out), kind=kind, processes=1, **options)  # type: ignore[arg-type]
    written = pack(config, show_progress=False)
    return {
        split: {name: content for record in of for name, content in members((out / record.url).read_bytes()).items()}
        for split, of in written.items()
    }


def test_a_folder_of_sounds_with_captions_and_splits(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for i, name in enumerate(("train/dog/a.wav", "train/cat/b.flac", "dev/dog/c.WAV")):
        put(root / name, encoded(ramp(100, i), 8000, "FLAC" if name.endswith("flac") else "WAV"))
    put(root / "train/dog/noname", encoded(ramp(100, 7), 8000, "FLAC"))
    put(root / "train/dog/a.txt", "a bark")
    put(root / "train/dog/cover.jpg", jpeg(1))
    put(root / "train/metadata.csv", "file_name,transcription\ncat/b.flac,a meow\n")
    found = packed(root, tmp_path / "out", "folder", media="sounds")
    words = "dog/a.wav dog/a.cls dog/a.txt cat/b.flac cat/b.cls cat/b.txt dog/noname.flac dog/noname.cls"
    assert found["train"].keys() == {f"train/{word}" for word in words.split()}
    assert found["train"]["train/cat/b.txt"] == b"a meow" and found["dev"].keys() == {"dev/dog/c.wav", "dev/dog/c.cls"}
    index = load_index(tmp_path / "out/train.json")
    assert index.kind == "sounds" and index.classes == ["cat", "dog"]
    cut = SoundConfig(sample_rate=8000, length=100)
    texts = {k: t for b in every_sample(index, cut, batch_size=9) for k, t in zip(b.keys, b.captions, strict=True)}
    assert texts == {"train/dog/a": "a bark", "train/cat/b": "a meow", "train/dog/noname": ""}


def test_sounds_without_the_setting_are_told(tmp_path: Path) -> None:
    put(tmp_path / "in/a.wav")
    with pytest.raises(UserError, match=r"holds no samples of kind=folder.*a sound: --media sounds packs those"):
        open_source("folder", str(tmp_path / "in"))
    write_tar(tmp_path / "in/x.tar", [("a", {"wav": WORD})])
    with pytest.raises(
        UserError, match=r"no pictures in .*x\.tar; extensions there: 1 wav; for sounds: .* --media sounds"
    ):
        open_source("tars", str(tmp_path / "in/x.tar"))


def test_sounds_are_converted_checked_and_left_out(tmp_path: Path) -> None:
    root = tmp_path / "in"
    put(root / "good.wav", encoded(np.stack([tone(0.5, 44100)] * 2, axis=1), 44100))
    put(root / "silent.wav", encoded(np.zeros(8000), 8000))
    put(root / "short.wav", encoded(tone(0.01, 8000), 8000))
    put(root / "long.wav", encoded(tone(3.0, 8000), 8000))
    put(root / "broken.wav", b"RIFF")
    put(root / "other.wav", jpeg(1))
    options = {
        "media": "sounds",
        "allow_left_out": 0.9,
        "sound": SoundConvertConfig(
            sample_rate=16000, channels=1, least_seconds=0.1, most_seconds=2.0, silence_level=-60.0
        ),
    }
    found = packed(root, tmp_path / "out", "folder", **options)["train"]
    assert list(found) == ["good.flac"]
    with SoundFile(found["good.flac"]) as file:
        assert (file.rate, file.channels, file.frames) == (16000, 1, 8000)
        x_CT = file.read(0, 8000)
    assert np.abs(x_CT[0, 100:-100] - tone(0.5, 16000)[100:-100]).max() < 1e-3
    told = json.loads((tmp_path / "out/train.skipped.json").read_text())
    assert told.keys() == {"silent", "short", "long", "broken", "other"}
    assert "silent" in told["silent"] and "less than sound.least_seconds=0.1" in told["short"]
    with pytest.raises(UserError, match=r"allow_left_out=0\.1 is exceeded: 5 of 6 sounds"):
        packed(root, tmp_path / "2", "folder", **{**options, "allow_left_out": 0.1})


def test_checks_of_kept_bytes() -> None:
    flac = encoded(np.random.default_rng(0).standard_normal(9000) / 9, 8000, "FLAC")
    cut = flac[: len(flac) // 2]
    assert convert(cut, None, SoundConvertConfig()) == ("flac", cut), "a header doesn't tell"
    assert convert(cut, None, SoundConvertConfig(check="none")) == ("flac", cut)
    with pytest.raises(DamagedSampleError):
        convert(cut, None, SoundConvertConfig(check="decode"))
    assert convert(flac, None, SoundConvertConfig(check="decode")) == ("flac", flac)
    many = encoded(np.zeros((50, 9)) + 0.1, 8000)
    with pytest.raises(DamagedSampleError, match=r"FLAC can.t hold 9 channels at 8000 Hz"):
        convert(many, None, SoundConvertConfig(format="flac"))
    assert convert(many, None, SoundConvertConfig(format="wav"))[0] == "wav"
    extension, wav = convert(flac, None, SoundConvertConfig(format="wav"))
    assert extension == "wav" and soundfile.info(io.BytesIO(wav)).frames == 9000
    for settings in ({"sample_rate": 10}, {"channels": 3}, {"least_seconds": -1.0}, {"most_seconds": 0.0}):
        with pytest.raises(ValueError, match="sound\\."):
            SoundConvertConfig(**settings)  # type: ignore[arg-type]


def test_librispeech(tmp_path: Path) -> None:
    root = tmp_path / "in/LibriSpeech"
    for subset, speaker in (("train-clean-100", "103"), ("train-other-500", "20"), ("dev-clean", "84")):
        chapter = root / subset / speaker / "7"
        for i in range(2):
            put(chapter / f"{speaker}-7-{i:04d}.flac", encoded(ramp(50, i), 16000, "FLAC"))
        put(chapter / f"{speaker}-7.trans.txt", "".join(f"{speaker}-7-{i:04d} WORD {i}\n" for i in range(2)))
    put(root / "SPEAKERS.TXT", "about")
    found = packed(tmp_path / "in", tmp_path / "out", "librispeech")
    assert found.keys() == {"train", "dev"}
    assert found["train"]["train-clean-100/103/7/103-7-0001.txt"] == b"WORD 1"
    assert found["train"]["train-other-500/20/7/20-7-0000.cls"] == b"0"
    assert load_index(tmp_path / "out/dev.json").classes == ["20", "84", "103"]
    source = open_source("librispeech", str(root), {"splits": {"train-other-500": ""}})
    assert len(source.splits["train"]) == 2
    with pytest.raises(UserError, match=r"holds no samples of kind=librispeech"):
        open_source("librispeech", str(put(tmp_path / "x/other/a.wav").parent.parent))


def test_ljspeech(tmp_path: Path) -> None:
    for name in ("LJ001-0001", "LJ001-0002", "LJ001-0003"):
        put(tmp_path / f"in/wavs/{name}.wav")
    put(tmp_path / "in/metadata.csv", 'LJ001-0001|No. 1|Number one\nLJ001-0002|a "b|a "b\nLJ009-0001|gone|gone\n')
    found = packed(tmp_path / "in", tmp_path / "out", "ljspeech", allow_left_out=0.5, held_out=0.34)
    texts = {name: content for of in found.values() for name, content in of.items() if name.endswith(".txt")}
    assert texts == {"wavs/LJ001-0001.txt": b"Number one", "wavs/LJ001-0002.txt": b'a "b'}
    assert load_index(tmp_path / "out/train.json").classes == [] and len(found["held_out"]) in (1, 2)
    put(tmp_path / "in/metadata.csv", "no bars here\n")
    with pytest.raises(UserError, match=r"metadata\.csv has lines that aren't"):
        open_source("ljspeech", str(tmp_path / "in"))


def test_vctk(tmp_path: Path) -> None:
    for speaker, key in (("p225", "001"), ("p225", "002"), ("s5", "001")):
        for microphone in ("mic1", "mic2"):
            put(tmp_path / f"in/wav48_silence_trimmed/{speaker}/{speaker}_{key}_{microphone}.flac")
        put(tmp_path / f"in/txt/{speaker}/{speaker}_{key}.txt", f"words {key}\n")
    found = packed(tmp_path / "in", tmp_path / "out", "vctk")["train"]
    assert sum(name.endswith((".wav", ".flac")) for name in found) == 3
    assert found["wav48_silence_trimmed/p225/p225_002_mic1.txt"] == b"words 002"
    assert load_index(tmp_path / "out/train.json").classes == ["p225", "s5"]


def test_esc50(tmp_path: Path) -> None:
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for i in range(10):
        put(tmp_path / f"in/audio/{i}-x.wav", encoded(ramp(50, i), 8000))
        rows.append(f"{i}-x.wav,{i % 5 + 1},{i % 2},{('dog', 'rain')[i % 2]},True,{i},A")
    put(tmp_path / "in/meta/esc50.csv", "\n".join(rows) + "\n")
    found = packed(tmp_path / "in", tmp_path / "out", "esc50")
    assert sorted(name for name in found["held_out"] if name.endswith("wav")) == ["audio/4-x.wav", "audio/9-x.wav"]
    index = load_index(tmp_path / "out/train.json")
    assert len(index) == 8 and index.classes == ["dog", "rain"] and index.meta["counts"] == [4, 4]
    (tmp_path / "in/meta/esc50.csv").unlink()
    with pytest.raises(UserError, match="has no table with filename, fold and category"):
        open_source("esc50", str(tmp_path / "in"))


def test_parquet_columns_of_sounds(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sounds = [{"bytes": encoded(ramp(40, i), 8000), "path": f"{i}.wav"} for i in range(4)]
    columns = {
        "cover": [{"bytes": jpeg(1), "path": ""}] * 4,
        "audio": sounds,
        "label": [0, 1, 1, 0],
        "text": list("abcd"),
    }
    features = {"cover": {"_type": "Image"}, "audio": {"sampling_rate": 8000, "_type": "Audio"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    file = put(tmp_path / "in/train-00000-of-00001.parquet", b"")
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), file)
    for number, options in enumerate(({"media": "sounds"}, {"audio_column": "audio"})):
        out = tmp_path / f"out{number}"
        found = packed(file.parent, out, "parquet", caption_column="text", shuffle=False, **options)["train"]
        assert found["train-00000-of-00001/00000002.wav"] == sounds[2]["bytes"]
        assert found["train-00000-of-00001/00000002.txt"] == b"c" and load_index(out / "train.json").kind == "sounds"
    with pytest.raises(UserError, match="audio_column is not for media=pictures"):
        open_source("parquet", str(file), {"audio_column": "audio", "media": "pictures"})
    alone = put(tmp_path / "alone.parquet", b"")
    parquet.write_table(pyarrow.table({"audio": sounds}).replace_schema_metadata(about), alone)
    with pytest.raises(UserError, match="has no column of pictures, but audio with sounds: set media=sounds"):
        open_source("parquet", str(alone))


def test_tars_of_sounds_are_sharded_anew(tmp_path: Path) -> None:
    files = [(f"a{i}", {"wav": encoded(ramp(60, i), 8000), "cls": b"1", "txt": b"t", "json": b"{}"}) for i in range(9)]
    write_tar(tmp_path / "in/x.tar", files)
    found = packed(tmp_path / "in/x.tar", tmp_path / "out", "tars", media="sounds", samples_per_shard=4)["train"]
    assert found["a3.wav"] == files[3][1]["wav"] and found["a3.json"] == b"{}" and found["a3.txt"] == b"t"
    again = packed(
        tmp_path / "out/train.json", tmp_path / "2", "tars", sound=SoundConvertConfig(sample_rate=16000), shuffle=False
    )["train"]
    with SoundFile(again["a3.flac"]) as file:
        assert (file.rate, file.frames) == (16000, 120)
    index = load_index(tmp_path / "2/train.json")
    (batch,) = every_sample(index, SoundConfig(length=120), batch_size=20)
    assert index.kind == "sounds" and len(batch.keys) == 9 and batch.captions == ["t"] * 9
    with pytest.raises(UserError, match=r"media=pictures is not what source=.* holds, sounds"):
        open_source("tars", str(tmp_path / "out/train.json"), {"media": "pictures"})


def test_settings_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "in/a.wav")
    with pytest.raises(UserError, match=r"convert has settings, but source=.* holds sounds: set those of sound"):
        main(
            [
                str(tmp_path / "in"),
                str(tmp_path / "out"),
                "--kind",
                "folder",
                "--media",
                "sounds",
                "--convert.size",
                "9",
            ]
        )
    put(tmp_path / "pictures/a.jpg", jpeg(1))
    with pytest.raises(UserError, match=r"sound has settings, but source=.* holds pictures: set those of convert"):
        main([str(tmp_path / "pictures"), str(tmp_path / "out"), "--kind", "folder", "--sound.sample_rate", "16000"])
    with pytest.raises(UserError, match="media is an option of kind=folder, parquet, tars, not of kind=vctk"):
        main([str(tmp_path / "in"), str(tmp_path / "out"), "--kind", "vctk", "--media", "sounds"])


def test_an_unfinished_pack_of_pictures_from_before_sounds_is_resumed(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", jpeg(1))
    config = PackConfig(source=str(tmp_path), out="out", kind="folder")
    assert plan(open_source("folder", str(tmp_path)), config).keys().isdisjoint({"media", "sound", "audio_column"})
