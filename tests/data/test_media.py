"""Kinds of samples: pictures are stored as before, unknown kinds are refused, a new one needs a room and an entry."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from data import media
from data.config import DataConfig
from data.inspect import main as inspect
from data.media import Media, media_of, read_transform
from data.pictures.config import TransformConfig
from data.reading.stream import Stream, every_sample
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError, Sample
from data.shards.scanning import build_index
from launch.command.cli import UserError, parse
from tests.data.making import picture_set, write_tar


def test_the_default_kind_is_left_out_of_what_is_stored() -> None:
    transform = TransformConfig(size=32, channels=1, fit="pad", background=0)
    stored = transform.to_dict()
    assert json.dumps(stored) == (
        '{"size": 32, "channels": 1, "fit": "pad", "flip": false, "random_crop": false, "min_scale": 1.0, '
        '"resize": "bicubic", "background": 0}'
    )
    assert read_transform(stored) == read_transform(asdict(transform)) == transform


def test_unknown_kinds_are_one_line_with_the_known_ones(tmp_path: Path) -> None:
    for wrong in ({"kind": "smells", "size": 3}, {"kind": "codes"}, {"kind": None}):
        with pytest.raises(ValueError, match=r"transform\.kind=\w+ is not a known kind: choose one of pictures"):
            read_transform(wrong)
    with pytest.raises(ValueError, match="not a dictionary"):
        read_transform(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"transform\.kind=smells is not known: choose one of pictures"):
        parse(DataConfig, ["--transform.kind", "smells"], prog="test")
    with pytest.raises(ValueError, match=r"transform\.kind=smells"):
        TransformConfig(kind="smells")  # type: ignore[arg-type]
    path = picture_set(tmp_path, [4])
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "kind": "smells"}))
    with pytest.raises(UserError, match=r"set\.json holds smells, not pictures"):
        every_sample(str(path), TransformConfig(size=8), batch_size=2)
    with pytest.raises(UserError, match="kind=smells is not a known kind of sample: choose one of pictures, codes"):
        inspect([str(path), "--verify", "--processes", "1"])
    with pytest.raises(UserError, match="kind=smells is not a known kind"):
        media_of("smells")


@dataclass(frozen=True, kw_only=True)
class WaveConfig:
    """The settings of a toy kind: numbers in a `.wave` member."""

    kind: Literal["waves"] = "waves"
    length: int = 4


class WaveDecoder:
    """Its decoder."""

    def __init__(self, index: ShardIndex, seed: int | None, *, transform: WaveConfig, max_pixels: int):
        self._length, self._random = transform.length, seed is not None

    def allocate(self, rows: int) -> torch.Tensor:
        return torch.zeros(rows, self._length, dtype=torch.int16)

    def fill(self, sample: Sample, epoch: int, buffer: torch.Tensor, row: int) -> None:
        values = np.frombuffer(sample.files["wave"], "<i2")
        if len(values) < self._length:
            raise DamagedSampleError("too short")
        buffer[row] = torch.tensor(values[: self._length])

    def batch(self, step: int, buffer: torch.Tensor, label_B: torch.Tensor, keys: list, captions: list) -> Any:
        return buffer, label_B, keys, captions


def check(sample: Sample, max_size: int) -> tuple[bytes, str]:
    return bytes(sample.files["wave"]), ""


def thumbnail(sample: Sample, side: int) -> Image.Image:
    return Image.new("RGB", (side, side), (0, 200, 0))


@pytest.fixture
def waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = "tests.data.test_media"
    entry = Media(
        members=("wave",),
        transform=WaveConfig,  # type: ignore[arg-type]
        decoder=f"{here}:WaveDecoder",
        check=f"{here}:check",
        thumbnail=f"{here}:thumbnail",
    )
    monkeypatch.setitem(media.KINDS, "waves", entry)
    contents = [np.arange(i, i + (2 if i == 5 else 6), dtype="<i2").tobytes() for i in range(12)]
    files = [(f"w{i:02d}", {"wave": c, "cls": b"0", "txt": b"tone"}) for i, c in enumerate(contents)]
    tar = write_tar(tmp_path / "waves.tar", files)
    build_index([tar], base=tmp_path, kind="waves", classes=["tone"]).save(tmp_path / "waves.json")
    return tmp_path / "waves.json"


def test_a_kind_from_outside_is_streamed_read_and_inspected(waves: Path, tmp_path: Path) -> None:
    transform: Any = read_transform({"kind": "waves", "length": 3})
    assert transform == WaveConfig(length=3)
    (batch,) = every_sample(load_index(waves), transform, batch_size=20, max_damaged=0.5)
    numbers = [i for i in range(12) if i != 5]
    assert batch[0].tolist() == [[i, i + 1, i + 2] for i in numbers] and batch[0].dtype == torch.int16
    assert batch[2] == [f"w{i:02d}" for i in numbers] and batch[3] == ["tone"] * 11
    with Stream(DataConfig(index=str(waves), batch_size=4, transform=transform), seed=0) as stream:
        for rows, _, keys, _ in islice(stream.batches(), 6):
            assert rows[:, 0].tolist() == [int(key[1:]) for key in keys]
        assert sum(stream.tally.damaged.values()) >= 1
    assert inspect([str(waves), "--verify", "--processes", "1", "--contact_sheet", str(tmp_path / "s.png")]) == 0
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert (sheet == (0, 200, 0)).all(axis=2).sum() > 11 * 96 * 90


def test_an_index_without_a_file_reads_one_shard(tmp_path: Path) -> None:
    index = load_index(picture_set(tmp_path, [5, 4, 3]))
    whole = [key for batch in every_sample(index, TransformConfig(size=8), batch_size=5) for key in batch.keys]
    alone = [key for batch in every_sample(index.only(1), TransformConfig(size=8), batch_size=3) for key in batch.keys]
    assert alone == whole[5:9] and len(whole) == 12
