"""One sample in a hundred damaged, each in another way: training goes on, counts are exact, positions don't shift."""

from __future__ import annotations

import io
import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.config import DataConfig
from data.pictures.config import TransformConfig
from data.reading.stream import Stream, every_sample
from data.shards import quarantine
from data.shards.loading import load_index
from data.shards.scanning import build_index
from launch.command.cli import UserError
from tests.data.making import Files, bomb, jpeg, write_tar

SMALL = TransformConfig(size=8)
PER_SHARD, SHARDS = 300, 4


def floats() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


WAYS: list[Files] = [
    {"jpg": b"", "cls": b"0"},
    {"jpg": jpeg(0)[:300], "cls": b"0"},
    {"jpg": b"\0" * 2000, "cls": b"0"},
    {"png": bomb(50_000), "cls": b"0"},
    {"png": bomb(900), "cls": b"0"},
    {"jpg": jpeg(0), "cls": b"7"},
    {"jpg": jpeg(0), "cls": b"cat"},
    {"txt": b"no picture", "cls": b"0"},
    {"tif": floats(), "cls": b"0"},
    {"gif": b"GIF89a\x01\x00\x01\x00", "cls": b"0"},
    {"webp": b"RIFF\x10\0\0\0WEBPVP8 ", "cls": b"0"},
    {"jpg": b"<html>404</html>", "cls": b"0"},
]
BAD = {100 * i + 37: way for i, way in enumerate(WAYS)}


def make(folder: Path, damaged: bool) -> Path:
    """Four shards; with or without the damage, the keys are the same."""
    tars, good = [], {"jpg": jpeg(1), "cls": b"1"}
    for shard in range(SHARDS):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        files = [(f"{n:05d}", BAD.get(n, good) if damaged else good) for n in numbers]
        tars.append(write_tar(folder / f"shard-{shard}.tar", files))
    build_index(tars, base=folder, classes=["a", "b"]).save(folder / "index.json")
    return folder / "index.json"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("damage")
    return make(folder / "bad", True), make(folder / "good", False)


def config(index: Path, **values: object) -> DataConfig:
    return DataConfig(index=str(index), batch_size=12, lanes=4, window=50, transform=SMALL, **values)  # type: ignore[arg-type]


def keys(index: Path, steps: int, start: int = 0, **values: object) -> tuple[list[list[str]], dict[str, int]]:
    with Stream(config(index, **values), seed=5) as stream:
        return [batch.keys for batch in islice(stream.batches(start), steps)], stream.tally.damaged


def test_counts_are_exact_and_positions_do_not_shift(sets: tuple[Path, Path]) -> None:
    bad, good = sets
    with Stream(config(bad, max_damaged=0.02, read_ahead=1), seed=5) as stream:
        with_damage = [batch.keys for batch in islice(stream.batches(), 99)]
        assert stream.tally.requested == 99 * 12
    healthy, none = keys(good, 100)
    assert none == {}
    replaced = 0
    for left, right in zip(with_damage, healthy, strict=False):
        for ours, theirs in zip(left, right, strict=True):
            replaced += ours != theirs
            assert (ours != theirs) == (int(theirs) in BAD)
    met = {int(key) for batch in healthy[:99] for key in batch} & set(BAD)
    expected: dict[str, int] = {}
    for number in met:
        name = str(bad.parent / f"shard-{number // PER_SHARD}.tar")
        expected[name] = expected.get(name, 0) + 1
    assert stream.tally.damaged == expected
    assert replaced == len(met) >= 11


def test_a_resume_finds_the_same_replacements(sets: tuple[Path, Path]) -> None:
    whole, _ = keys(sets[0], 100, max_damaged=0.02)
    for start in (1, 40, 77):
        assert keys(sets[0], 100 - start, start, max_damaged=0.02, threads=4)[0] == whole[start:]


def test_over_the_limit_the_run_stops_and_names_the_shards(sets: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"over data\.max_damaged=0\.001: .*shard-\d\.tar") as caught:
        keys(sets[0], 100, max_damaged=0.001)
    assert "\n" not in str(caught.value)


def test_evaluation_leaves_damaged_samples_out(sets: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = [key for b in every_sample(str(sets[0]), SMALL, batch_size=50, max_damaged=0.02) for key in b.keys]
    assert [int(key) for key in found] == [n for n in range(PER_SHARD * SHARDS) if n not in BAD]
    assert any("shard-0.tar, sample 37" in line for line in caplog.messages)


def test_quarantined_samples_are_replaced_without_being_counted_or_read(tmp_path: Path) -> None:
    index = make(tmp_path, True)
    plain, _ = keys(index, 100, max_damaged=0.02)
    reasons: dict[str, dict[int, str]] = {}
    for number in BAD:
        reasons.setdefault(f"shard-{number // PER_SHARD}.tar", {})[number % PER_SHARD] = "known"
    quarantine.save(quarantine.quarantine_path(index), reasons)
    with Stream(config(index, max_damaged=0.0), seed=5) as stream:
        assert [batch.keys for batch in islice(stream.batches(), 100)] == plain
        assert stream.tally.damaged == {} and stream.tally.quarantined >= len(BAD)


def test_a_damaged_header_counts_as_a_damaged_sample(tmp_path: Path) -> None:
    index = make(tmp_path, False)
    shard = tmp_path / "shard-1.tar"
    raw = bytearray(shard.read_bytes())
    offsets = load_index(index).offsets
    assert offsets is not None
    raw[offsets.extent(1, 20)[0] + 5] ^= 0xFF
    shard.write_bytes(bytes(raw))
    found, damaged = keys(index, 100)
    assert damaged == {str(shard): 1}
    assert "00320" not in {key for batch in found for key in batch}
