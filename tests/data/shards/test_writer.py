"""Shards are written whole, to the same bytes, and found again after a kill at any point."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset

from data.shards.compressed import open_plain
from data.shards.loading import load_index
from data.shards.writer import STATE, Sample, ShardWriter, check_key, write_tar
from launch.command.cli import UserError


def samples(count: int = 5, first: int = 0) -> Iterator[Sample]:
    for i in range(first, first + count):
        yield f"folder/{i:03d}", {"cls": str(i % 3).encode(), "png": bytes([i]) * (600 + i)}


def test_webdataset_reads_what_is_written(tmp_path: Path) -> None:
    record, _ = write_tar(tmp_path / "a.tar", samples())
    assert (record.nsamples, record.filesize) == (5, (tmp_path / "a.tar").stat().st_size)
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [s["__key__"] for s in read] == [f"folder/{i:03d}" for i in range(5)]
    assert read[2]["png"] == bytes([2]) * 602
    assert read[2]["cls"] == b"2"


def test_bytes_depend_on_the_samples_alone(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar", "a.tar.gz", "b.tar.gz"):
        write_tar(tmp_path / name, samples())
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    write_tar(tmp_path / "c.tar", samples(first=1))
    assert (tmp_path / "c.tar").read_bytes() != (tmp_path / "b.tar").read_bytes()


def test_a_compressed_shard_opens_to_the_plain_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", samples())
    write_tar(tmp_path / "a.tar.gz", samples())
    descriptor = open_plain(tmp_path / "a.tar.gz")
    try:
        assert os.pread(descriptor, 1 << 20, 0) == (tmp_path / "a.tar").read_bytes()
    finally:
        os.close(descriptor)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes((tmp_path / "a.tar.gz").read_bytes()[:-20])
    with pytest.raises(OSError, match="damaged or ends early"):
        open_plain(cut)


@pytest.mark.parametrize("key", ["", "/a", "a/../b", "../a", "a//b", "./a", "a.b", "a\\b", "a\nb"])
def test_keys_that_no_member_may_have(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key"):
        check_key(key)
    with pytest.raises(ValueError, match="key"):
        write_tar(tmp_path / "a.tar", [(key, {"txt": b""})])
    assert not list(tmp_path.iterdir())


def test_nothing_stays_of_a_shard_that_fails(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from samples(2)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_tar(tmp_path / "a.tar", failing())
    with pytest.raises(ValueError, match="twice"):
        write_tar(tmp_path / "a.tar", [*samples(1), *samples(1)])
    assert not list(tmp_path.iterdir())


def write_set(folder: Path, *, overwrite: bool = False, seed: int = 0) -> None:
    """Three shards and their index."""
    shards = ShardWriter(folder)
    shards.begin({"seed": seed}, ["train.json"], overwrite=overwrite)
    records = [shards.write(f"train-{i}.tar", samples(4, 4 * i + seed)) for i in range(3)]
    shards.finish({"train.json": shards.index(records, name="set")}, {"LICENSE": "free"})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_set_with_offsets(tmp_path: Path) -> None:
    write_set(tmp_path / "a")
    index = load_index(tmp_path / "a/train.json")
    assert index.sizes == [4, 4, 4]
    written = (tmp_path / "a/train.offsets.npz").read_bytes()
    (tmp_path / "a/train.offsets.npz").unlink()
    again = load_index(tmp_path / "a/train.json")  # Offsets found by reading the tars are those noted in writing.
    assert index.offsets is not None and again.offsets is not None
    assert [index.offsets.of_shard(i) for i in range(3)] == [again.offsets.of_shard(i) for i in range(3)]
    assert (tmp_path / "a/train.offsets.npz").read_bytes() == written
    assert not (tmp_path / "a" / STATE).exists()


def test_long_and_foreign_keys_have_right_offsets(tmp_path: Path) -> None:
    shards = ShardWriter(tmp_path)
    shards.begin({}, ["x.json"])
    keys = ["häuser/" + "lang" * 40 + str(i) for i in range(3)]
    record = shards.write("x.tar", [(key, {"png": b"1" * 700, "cls": b"0"}) for key in keys])
    index = shards.index([record])
    shards.finish({"x.json": index})
    (tmp_path / "x.offsets.npz").unlink()
    again = load_index(tmp_path / "x.json")
    assert index.offsets is not None and again.offsets is not None
    assert index.offsets.of_shard(0) == again.offsets.of_shard(0)


def test_a_finished_set_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="finished set"):
        write_set(tmp_path, seed=1)
    assert contents(tmp_path) == before
    write_set(tmp_path, seed=1, overwrite=True)
    assert contents(tmp_path)["train-0.tar"] != before["train-0.tar"]
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_an_unfinished_set_goes_on_only_with_the_same_plan(tmp_path: Path) -> None:
    shards = ShardWriter(tmp_path)
    shards.begin({"seed": 0}, ["train.json"])
    shards.write("train-0.tar", samples(4))
    inode = (tmp_path / "train-0.tar").stat().st_ino
    with pytest.raises(UserError, match=r"another seed \(0, now 1\)"):
        write_set(tmp_path, seed=1)
    write_set(tmp_path)
    assert (tmp_path / "train-0.tar").stat().st_ino == inode, "a finished shard is kept, not written again"


def test_a_shard_cut_off_behind_our_back_is_written_again(tmp_path: Path) -> None:
    shards = ShardWriter(tmp_path)
    shards.begin({}, ["train.json"])
    record = shards.write("train-0.tar", samples(4))
    os.truncate(tmp_path / "train-0.tar", 100)
    assert shards.finished("train-0.tar") is None
    assert shards.write("train-0.tar", samples(4)) == record


def test_two_writers_exclude_each_other(tmp_path: Path) -> None:
    shards = ShardWriter(tmp_path)
    shards.begin({}, ["train.json"])
    child = os.fork()
    if child == 0:
        try:
            ShardWriter(tmp_path).begin({}, ["train.json"])
        except UserError as error:
            os._exit(3 if "another process" in str(error) else 4)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_killed_at_every_step_and_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that kills itself at its n-th fsync, rename or removal leaves what a restart completes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # For power cuts; a kill loses nothing of a file.
    write_set(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    died, step = 0, 0
    while True:
        folder = tmp_path / f"killed-{step}"
        status = _in_child_that_dies_at(step, folder)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        died += 1
        visible = [path.name for path in folder.iterdir()] if folder.exists() else []
        assert all(contents(folder)[name] == expected[name] for name in visible if name in expected)
        if "train.json" not in visible or (folder / STATE / "plan.json").exists():
            write_set(folder)
        else:  # Killed after the set was complete: it is one, and a restart says so.
            with pytest.raises(UserError, match="finished set"):
                write_set(folder)
        assert contents(folder) == expected
        step += 1
    assert died > 20


def _in_child_that_dies_at(step: int, folder: Path) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = 0

    def dying(real):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal calls
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return real(*arguments, **options)

        return call

    os.fsync, Path.replace, Path.unlink = dying(os.fsync), dying(Path.replace), dying(Path.unlink)
    try:
        write_set(folder)
    finally:
        os._exit(0)


def test_index_is_plain_json(tmp_path: Path) -> None:
    write_set(tmp_path)
    values = json.loads((tmp_path / "train.json").read_text())
    assert [shard["url"] for shard in values["shardlist"]] == ["train-0.tar", "train-1.tar", "train-2.tar"]
