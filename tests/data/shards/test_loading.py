"""Indexes: built from bare tars, saved, loaded, mended, and refused with one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data.index import main
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.index import offsets_path
from data.shards.loading import load_index
from data.shards.offsets import ShardOffsets
from data.shards.scanning import build_index
from launch.command.cli import UserError
from tests.data.making import picture_set, write_tar
from tests.data.serving import served


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    path = picture_set(tmp_path, [3, 5])
    built = load_index(path)
    assert [s.nsamples for s in built.shards] == [3, 5] and len(built) == 8
    assert built.shards[0].url == "set-00.tar" and built.shards[0].filesize == (tmp_path / "set-00.tar").stat().st_size
    assert built.classes == ["class 0", "class 1", "class 2"]
    assert built.offsets is not None and built.offsets.counts() == [3, 5]
    values = json.loads(path.read_text())
    assert values["__kind__"] == "wids-shard-index-v1" and values["wids_version"] == 1
    built.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == values


def test_a_set_can_be_moved(tmp_path: Path) -> None:
    picture_set(tmp_path / "a", [2])
    (tmp_path / "a").rename(tmp_path / "b")
    index = load_index(tmp_path / "b" / "set.json")
    assert index.location(0) == str(tmp_path / "b" / "set-00.tar")


@pytest.mark.parametrize("how", ["missing", "garbage", "of another set"])
def test_offsets_are_made_anew(tmp_path: Path, how: str) -> None:
    path = picture_set(tmp_path, [3, 5])
    stored = offsets_path(path)
    before = ShardOffsets.load(stored).blocks.tolist()
    if how == "missing":
        stored.unlink()
    elif how == "garbage":
        stored.write_bytes(b"not a zip")
    else:
        ShardOffsets.from_starts([[0, 512]]).save(stored)
    index = load_index(path)
    assert index.offsets is not None and index.offsets.blocks.tolist() == before
    assert ShardOffsets.load(stored).blocks.tolist() == before


def test_wids_own_file_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("1", {"jpg": b"1"}), ("2", {"jpg": b"2"})])
    file = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": [{"url": "x.tar", "nsamples": 2}]}
    (tmp_path / "index.json").write_text(json.dumps(file))
    index = load_index(tmp_path / "index.json")
    assert len(index) == 2 and index.classes == [] and index.kind == "pictures"


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "missing"),
        ("{", "can't be read"),
        ("[]", "not a shard index"),
        ('{"shardlist": []}', "no samples"),
        ('{"shardlist": [{"url": "x.tar"}]}', "nsamples"),
        ('{"__kind__": "other", "shardlist": []}', "of kind other"),
        ('{"shardlist": [{"url": "x.tar", "nsamples": 3}]}', "missing shard"),
    ],
)
def test_bad_indexes_are_one_line(tmp_path: Path, contents: str | None, words: str) -> None:
    path = tmp_path / "index.json"
    if contents is not None:
        path.write_text(contents)
    with pytest.raises(UserError, match=words) as caught:
        load_index(path)
    assert "\n" not in str(caught.value)


def test_a_shard_with_other_samples_than_the_index_says_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("1", {"jpg": b"1"})])
    (tmp_path / "index.json").write_text('{"shardlist": [{"url": "x.tar", "nsamples": 2}]}')
    with pytest.raises(UserError, match=r"x\.tar \(1 samples, the index says 2\)"):
        load_index(tmp_path / "index.json")


def test_build_names_damaged_and_missing_tars(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", [("1", {"jpg": b"1"})])
    bad = tmp_path / "bad.tar"
    bad.write_bytes(good.read_bytes()[:600])
    with pytest.raises(UserError, match=r"bad\.tar .*missing\.tar") as caught:
        build_index([good, bad, tmp_path / "missing.tar"])
    assert "good.tar" not in str(caught.value)


def test_empty_tars_are_left_out(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", [("1", {"jpg": b"1"})])
    empty = write_tar(tmp_path / "empty.tar", [])
    assert [s.url for s in build_index([empty, good], base=tmp_path).shards] == ["good.tar"]


def test_the_hubs_info_is_read(tmp_path: Path) -> None:
    folder = picture_set(tmp_path / "set", [10, 17, 21]).parent
    splits = {
        "train": {"name": "train", "filenames": ["set-00.tar", "set-02.tar"], "shard_lengths": [10, 21]},
        "validation": {"name": "validation", "filenames": ["set-01.tar"], "shard_lengths": [17]},
    }
    for path in folder.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    info = tmp_path / "_info.json"
    info.write_text(json.dumps({"name": "digits", "splits": splits}))
    assert load_index(info).sizes == [10, 21]
    assert load_index(f"{info}#validation").sizes == [17]
    with pytest.raises(UserError, match="no split 'test'"):
        load_index(f"{info}#test")
    assert main([f"{info}#validation", str(tmp_path / "v.json")]) == 0
    pixels = [
        batch.pixels_BCHW for batch in every_sample(str(tmp_path / "v.json"), TransformConfig(size=8), batch_size=20)
    ]
    assert torch.cat(pixels).shape == (17, 3, 8, 8)


def test_a_remote_index_may_not_name_commands_or_local_files(tmp_path: Path) -> None:
    for url in ("pipe:cat /etc/passwd", "file://pipe:cat /etc/passwd", "/etc/passwd"):
        (tmp_path / "bad.json").write_text(json.dumps({"shardlist": [{"url": url, "nsamples": 1}]}))
        with served(tmp_path) as server, pytest.raises(UserError, match="only an index on this machine"):
            load_index(f"{server.url}/bad.json")
