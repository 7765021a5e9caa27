"""Batches of sounds from shards: lengths, masks, damaged ones, ranks, and the same at any number of threads."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import DataConfig
from data.index import main as index
from data.inspect import main as inspect
from data.media import read_transform
from data.reading.stream import Stream, every_sample
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError
from data.sounds.batches import SoundBatch, sounding, to_float, to_int16
from data.sounds.config import SoundConfig
from data.sounds.files import sound_member
from data.sounds.inspection import check, spectrogram
from launch.command.cli import UserError
from tests.data.making import sample, write_tar
from tests.data.sounds.making import encoded, ramp, sound_set, tone

CUT = SoundConfig(sample_rate=8000, length=64)


def test_each_sample_once_with_its_length_and_text(tmp_path: Path) -> None:
    path = sound_set(tmp_path, [100, 64, 30, 1, 90, 64])
    (batch,) = every_sample(str(path), CUT, batch_size=10)
    assert isinstance(batch, SoundBatch)
    assert batch.samples_BCT.shape == (6, 1, 64) and batch.samples_BCT.dtype == torch.int16
    assert batch.keys == ["k000", "k002", "k004", "k001", "k003", "k005"]
    assert batch.lengths_B.tolist() == [64, 30, 64, 64, 1, 64] and batch.lengths_B.dtype == torch.int64
    assert batch.label_B.tolist() == [0, 0, 0, 1, 1, 1] and batch.captions[1] == "text 2"
    for row, key in enumerate(batch.keys):
        number, length = int(key[1:]), int(batch.lengths_B[row])
        first = 1000 * number + (max(0, [100, 64, 30, 1, 90, 64][number] - 64)) // 2
        assert batch.samples_BCT[row, 0, :length].tolist() == ramp(length, first).tolist()
        assert not batch.samples_BCT[row, 0, length:].any()


def test_training_is_the_same_on_any_threads_and_ranks(tmp_path: Path) -> None:
    path = str(sound_set(tmp_path, [60 + 7 * (i % 9) for i in range(24)]))

    def read(threads: int, rank: int = 0, ranks: int = 1) -> list[SoundBatch]:
        config = DataConfig(index=path, batch_size=8, lanes=4, transform=CUT, threads=threads)
        with Stream(config, seed=5, rank=rank, world_size=ranks) as stream:
            return list(islice(stream.batches(), 5))

    one, several, parts = read(1), read(4), [read(2, rank, 2) for rank in range(2)]
    for a, b, *halves in zip(one, several, *parts, strict=True):
        assert a.keys == b.keys and torch.equal(a.samples_BCT, b.samples_BCT) and torch.equal(a.lengths_B, b.lengths_B)
        together = {key: row for half in halves for key, row in zip(half.keys, half.samples_BCT, strict=True)}
        assert all(torch.equal(together[key], row) for key, row in zip(a.keys, a.samples_BCT, strict=True))
    # A sample's next epoch is cut at another place, and a run that resumes reads what one without a break does.
    config = DataConfig(index=path, batch_size=8, lanes=4, transform=CUT)
    with Stream(config, seed=5) as stream:
        resumed = next(iter(stream.batches(start=3)))
    assert torch.equal(resumed.samples_BCT, one[3].samples_BCT)
    places = {key: int(row[0, 0]) for batch in one[:3] for key, row in zip(batch.keys, batch.samples_BCT, strict=True)}
    later = {key: int(row[0, 0]) for batch in one[3:] for key, row in zip(batch.keys, batch.samples_BCT, strict=True)}
    assert any(places[key] != first for key, first in later.items())


def test_damaged_sounds_are_replaced_counted_and_too_many_stop(tmp_path: Path) -> None:
    path = str(sound_set(tmp_path, [80] * 40, damaged=(3,)))
    with Stream(DataConfig(index=path, batch_size=8, transform=CUT), seed=0) as stream:
        for batch in islice(stream.batches(), 5):
            assert "k003" not in batch.keys and (batch.lengths_B == 64).all()
        assert sum(stream.tally.damaged.values()) == 1
    (batch,) = every_sample(path, CUT, batch_size=64)
    assert len(batch.keys) == len(batch.lengths_B) == len(batch.samples_BCT) == 39
    with pytest.raises(UserError, match=r"damaged, over data\.max_damaged=0\.0"):
        list(every_sample(path, CUT, batch_size=64, max_damaged=0.0))


def test_dropped_silence_is_not_counted_as_damaged(tmp_path: Path) -> None:
    files = [(f"k{i}", {"wav": encoded(np.zeros(80) if i == 2 else tone(0.01, 8000), 8000)}) for i in range(8)]
    write_tar(tmp_path / "s.tar", files)
    assert index([str(tmp_path / "s.tar"), str(tmp_path / "s.json"), "--media", "sounds"]) == 0
    config = DataConfig(
        index=str(tmp_path / "s.json"),
        batch_size=4,
        max_damaged=0.0,
        transform=SoundConfig(sample_rate=8000, length=64, silence="drop"),
    )
    with Stream(config, seed=0) as stream:
        keys = [key for batch in islice(stream.batches(), 4) for key in batch.keys]
        assert "k2" not in keys and not stream.tally.damaged and stream.tally.quarantined


def test_floats_and_back() -> None:
    samples = torch.tensor([[[-32768, -1, 0, 1, 32767]]], dtype=torch.int16)
    x_BCT = to_float(samples)
    assert x_BCT.dtype == torch.float32 and x_BCT.min() == -1 and x_BCT.max() < 1
    assert torch.equal(to_int16(x_BCT), samples)
    assert to_int16(torch.tensor([[[-2.0, 2.0]]])).tolist() == [[[-32768, 32767]]]
    assert sounding(torch.tensor([1, 3]), 3).tolist() == [[[True, False, False]], [[True, True, True]]]


def test_settings_travel_as_json() -> None:
    for given in (CUT, SoundConfig(gain=(-6, 3), loudness=-16.0, channels=2, silence="drop")):
        stored = json.loads(json.dumps(given.to_dict()))
        assert stored["kind"] == "sounds" and read_transform(stored) == given
    with pytest.raises(ValueError, match="transform has unknown keys size"):
        read_transform({"kind": "sounds", "size": 3})


def test_which_member_is_the_sound() -> None:
    assert sound_member(sample(mp3=b"", wav=b"", txt=b"")) == "wav"
    assert sound_member(sample(speaker_flac=b"", ogg=b"", jpg=b"")) == "ogg"
    assert sound_member(sample(speaker_flac=b"", cls=b"")) == "speaker.flac"
    with pytest.raises(DamagedSampleError, match="no sound among jpg, txt"):
        sound_member(sample(jpg=b"", txt=b""))


def test_tars_of_others_are_indexed_as_sounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"wav": encoded(ramp(80), 8000), "txt": b"word", "json": b"{}"}
    files = [
        *((f"a{i}", {**good, "cls": b"dog" if i % 2 else b"cat", "jpg": b"cover"}) for i in range(12)),
        ("README", {"md": b"about"}),
        ("lonely", {"txt": b"no sound here"}),
    ]
    write_tar(tmp_path / "x.tar", files)
    arguments = [str(tmp_path / "x.tar"), str(tmp_path / "x.json"), "--media", "sounds"]
    assert index(arguments) == 0
    told = capsys.readouterr().out
    assert "taken: 12 sounds, 12 labels, 12 captions" in told and "no sound" in told
    made = load_index(tmp_path / "x.json")
    assert made.kind == "sounds" and made.classes == ["cat", "dog"] and made.layout.picture == ("wav",)
    (batch,) = every_sample(made, CUT, batch_size=20)
    assert batch.label_B.tolist() == [0, 1] * 6 and batch.captions == ["word"] * 12
    with pytest.raises(UserError, match="no samples: no sounds in"):
        write_tar(tmp_path / "p.tar", [("p", {"jpg": b"picture"})])
        index([str(tmp_path / "p.tar"), str(tmp_path / "p.json"), "--media", "sounds"])


def test_inspect_verifies_and_shows_spectrograms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flac, wav = encoded(tone(0.2, 8000), 8000, "FLAC"), encoded(tone(0.2, 8000, 900), 8000)
    write_tar(tmp_path / "s.tar", [("a", {"flac": flac}), ("b", {"flac": wav}), ("c", {"flac": flac[:500]})])
    index([str(tmp_path / "s.tar"), str(tmp_path / "s.json"), "--media", "sounds"])
    sheet = tmp_path / "sheet.png"
    found = inspect([str(tmp_path / "s.json"), "--verify", "--processes", "1", "--contact_sheet", str(sheet)])
    told = capsys.readouterr().out
    assert found == 1 and "unsound samples: 1" in told and "taken: 3 sounds" in told and "called .flac, is wav" in told
    assert Image.open(sheet).size[0] > 96


def test_a_spectrogram_has_its_tone_at_its_height() -> None:
    picture = np.asarray(spectrogram(tone(1.0, 8000, 1000.0).astype(np.float32), 60, 80).convert("L")).astype(int)
    assert picture.shape == (80, 60)
    assert abs(int(picture[:, 30].argmax()) - (79 - 20)) <= 1, "1 kHz of 4 kHz is a quarter of the height"
    for x_T in (np.zeros(500), np.zeros(1), np.full(9, 1.0)):
        assert spectrogram(x_T.astype(np.float32), 20, 10).size == (20, 10)
    assert not np.asarray(spectrogram(np.zeros(500, np.float32), 20, 10)).any()


def test_wrong_extensions_are_noted_not_refused() -> None:
    opus = encoded(tone(0.2, 48000), 48000, "OGG", "OPUS")
    for name, note in (("opus", ""), ("ogg", ""), ("oga", ""), ("wav", "called .wav, is opus")):
        assert check(sample(**{name: opus}), 0) == (opus, note)
