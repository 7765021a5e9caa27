"""Packing: every kind of source, what is left out, restarts, and that a killed pack ends in the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from data.config import DataConfig
from data.pack import PackConfig, main, pack
from data.pictures.config import TransformConfig
from data.pictures.convert import ConvertConfig
from data.reading.stream import Stream, every_sample
from data.shards.loading import load_index
from data.shards.writer import STATE, fit_key
from launch.command.cli import UserError
from tests.data.archives import first_picture
from tests.data.making import jpeg

SMALL = TransformConfig(size=8, fit="stretch")


def folder_of_pictures(root: Path, per_class: int = 12, classes: tuple[str, ...] = ("cat", "dog", "emu")) -> Path:
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            (root / name / f"{i:03d}.jpg").write_bytes(jpeg(100 * c + i))
    return root


def packed(source: Path, out: Path, kind: str = "folder", **options: object) -> dict[str, bytes]:
    """Pack, and give the files that came out."""
    options = {"processes": 1, **options}
    pack(PackConfig(source=str(source), out=str(out), kind=kind, **options), show_progress=False)  # type: ignore[arg-type]
    return {path.name: path.read_bytes() for path in out.iterdir()}


def labels_by_key(index: Path) -> dict[str, int]:
    batches = every_sample(str(index), SMALL, batch_size=7, threads=1)
    return {key: int(label) for batch in batches for key, label in zip(batch.keys, batch.label_B, strict=True)}


def captions(index: Path) -> dict[str, str]:
    batches = every_sample(str(index), SMALL, batch_size=2, threads=1)
    return {key: text for batch in batches for key, text in zip(batch.keys, batch.captions, strict=True)}


def test_captions_beside_pictures_and_in_lists_are_kept_and_read(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in", per_class=2, classes=("cat", "dog"))
    (source / "cat" / "000.txt").write_text("a cat\non a mat, «très» small\n")
    lines = [{"file_name": "dog/001.jpg", "text": "a dog"}, {"file_name": "dog/000.jpg", "label": 3}]
    (source / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    packed(source, tmp_path / "out")
    expected = {"cat/000": "a cat on a mat, «très» small", "cat/001": "", "dog/000": "", "dog/001": "a dog"}
    assert captions(tmp_path / "out/train.json") == expected
    packed(tmp_path / "out" / "train.json", tmp_path / "again", kind="tars", samples_per_shard=3)
    assert captions(tmp_path / "again/train.json") == expected
    (source / "metadata.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1 is no JSON object"):
        packed(source, tmp_path / "third")


def test_a_folder_keeps_its_bytes_and_labels(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in")
    packed(source, tmp_path / "out", samples_per_shard=10, licence="free")
    index = load_index(tmp_path / "out/train.json")
    assert (index.sizes, index.classes, index.licence) == ([10, 10, 10, 6], ["cat", "dog", "emu"], "free")
    assert index.meta["counts"] == [12, 12, 12]
    found = labels_by_key(tmp_path / "out/train.json")
    assert found == {f"{name}/{i:03d}": c for c, name in enumerate(index.classes) for i in range(12)}
    first = [list(found.values())[:10].count(c) for c in range(3)]
    assert max(first) < 10, "shards are not sorted by class"
    everything = (tmp_path / "out/train-000000.tar").read_bytes()
    assert (source / (next(iter(found)) + ".jpg")).read_bytes() in everything


def test_the_loader_takes_a_packed_set(tmp_path: Path) -> None:
    packed(folder_of_pictures(tmp_path / "in"), tmp_path / "out", held_out=0.25, samples_per_shard=8)
    config = DataConfig(index=str(tmp_path / "out/train.json"), batch_size=9, transform=SMALL)
    with Stream(config, seed=0) as stream:
        batches = stream.batches()
        keys = [key for _ in range(3) for key in next(batches).keys]
    assert len(set(keys)) == 27
    held_out = labels_by_key(tmp_path / "out/held_out.json")
    assert sorted(held_out.values()) == [0] * 3 + [1] * 3 + [2] * 3
    assert not set(keys) & set(held_out)


def test_processes_and_repetition_change_nothing(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in")
    options = {"samples_per_shard": 5, "convert": ConvertConfig(size=16, format="png"), "name": "set"}
    one = packed(source, tmp_path / "a", **options)
    assert one == packed(source, tmp_path / "b", **options, processes=3)
    assert one != packed(source, tmp_path / "c", **options, seed=1)


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of_pictures(tmp_path / "in")
    (source / "cat/000.jpg").write_bytes(b"")
    (source / "cat/001.jpg").write_bytes(b"<html>not found</html>")
    (source / "cat/002.jpg").write_bytes(jpeg(1)[:300])  # Truncated: only seen where pictures are decoded.
    (source / "dog/note.txt").write_text("no picture")
    Image.new("RGB", (1100, 1000)).save(source / "dog/large.png")
    (source / "dog/gone.jpg").symlink_to(source / "cat/003.jpg")
    convert = ConvertConfig(check="decode", max_pixels=10**6)
    config = PackConfig(source=str(source), out=str(tmp_path / "out"), kind="folder", processes=1, convert=convert)
    with pytest.raises(UserError, match=r"allow_left_out=0\.1 is exceeded: 4 of 38 pictures.*to 0\.11"):
        pack(config)
    assert not (tmp_path / "out/train.json").exists()
    capsys.readouterr()
    pack(dataclasses.replace(config, allow_left_out=0.2))  # the finished shards are kept
    skipped = json.loads((tmp_path / "out/train.skipped.json").read_text())
    assert set(skipped) == {"cat/000", "cat/001", "cat/002", "dog/large"}
    assert (skipped["cat/000"], skipped["cat/001"]) == ("no bytes", "not a picture of a known format")
    assert "max_pixels=1000000" in skipped["dog/large"]
    told = capsys.readouterr().err
    assert "train: 34 samples in 1 shards" in told
    assert "resuming" in told and "1 no bytes (cat/000)" in told
    assert (
        "taken: 34 pictures, 34 labels" in told
        and "left out of the pictures: 1, no bytes (1 .jpg): cat/000.jpg" in told
    )
    assert "warning: 4 of 38 pictures (10.5%) are left out" in told and "dog/note.txt" in told
    assert len(load_index(tmp_path / "out/train.json")) == 34


def test_a_file_that_vanishes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of_pictures(tmp_path / "in")
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == "005.jpg":
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read)
        pack(PackConfig(source=str(source), out=str(tmp_path / "out"), kind="folder", processes=1), show_progress=False)
    skipped = json.loads((tmp_path / "out/train.skipped.json").read_text())
    assert set(skipped) == {f"{name}/005.jpg" for name in ("cat", "dog", "emu")}


def test_extensions_follow_the_contents(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in", per_class=1)
    Image.new("RGB", (5, 5), "red").save(source / "cat/wrong.jpg", "PNG")
    (source / "cat/000.png").write_bytes(jpeg(9))  # The same stem twice.
    out = packed(source, tmp_path / "out", shuffle=False)
    members = out["train-000000.tar"]
    assert b"cat/wrong.png" in members and b"cat/wrong.jpg" not in members
    assert set(labels_by_key(tmp_path / "out/train.json")) >= {"cat/000_jpg", "cat/000_png", "cat/wrong"}


def test_shards_by_bytes(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in")
    out = packed(source, tmp_path / "kept", megabytes_per_shard=0.03)
    sizes = [len(contents) for name, contents in out.items() if name.endswith(".tar")]
    assert len(sizes) > 2
    assert max(sizes) <= 0.03e6 + 10240  # The archive's own end is padded to 10,240 bytes.
    again = packed(source, tmp_path / "anew", megabytes_per_shard=0.03, convert=ConvertConfig(size=8, format="png"))
    assert len([name for name in again if name.endswith(".tar")]) > 2


def test_resizing(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32), "red").save(folder := tmp_path / "in.png")
    (tmp_path / "in").mkdir()
    folder.rename(tmp_path / "in/a.png")
    for fit, size in (("crop", (16, 16)), ("shorter", (32, 16)), ("stretch", (16, 16))):
        out = packed(tmp_path / "in", tmp_path / fit, convert=ConvertConfig(size=16, fit=fit, format="jpg"))  # type: ignore[arg-type]
        assert first_picture(out["train-000000.tar"]).size == size
        assert labels_by_key(tmp_path / fit / "train.json") == {"a": -1}


@pytest.mark.parametrize(("share", "way_out"), [(0.01, "set it to 0.056 or more"), (0.99, "a smaller share")])
def test_a_share_that_holds_out_nothing_or_all_is_refused(tmp_path: Path, share: float, way_out: str) -> None:
    source = folder_of_pictures(tmp_path / "in", per_class=6)
    with pytest.raises(
        UserError, match=rf"held_out={share} of 18 samples of train holds out (no|every) sample: .*{way_out}"
    ):
        packed(source, tmp_path / "out", held_out=share)
    assert not (tmp_path / "out").exists()
    packed(source, tmp_path / "out", held_out=0.056)
    assert len(load_index(tmp_path / "out/held_out.json")) == 1


def test_a_pack_with_too_many_losses_is_refused_before_it_is_read(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in", per_class=3)
    for i in range(2):
        (source / f"cat/{i}.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(UserError, match=r"allow_left_out=0\.1 is exceeded: 2 of 11 pictures.*heic.*cat/0\.heic"):
        packed(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"allow_left_out=1\.5 is out of range"):
        packed(source, tmp_path / "out", allow_left_out=1.5)
    packed(source, tmp_path / "out", allow_left_out=0.2)


def test_options_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of_pictures(tmp_path / "in", per_class=2)
    words = [str(source), str(tmp_path / "out"), "--kind", "folder", "--processes", "1"]
    main(words)
    assert "6 samples" in capsys.readouterr().err
    with pytest.raises(UserError, match="finished set"):
        main(words)
    main([*words, "--overwrite", "--held_out", "0.5"])
    assert len(load_index(tmp_path / "out/held_out.json")) == 3
    with pytest.raises(UserError, match="option of kind=celeba"):
        main([*words, "--label_attribute", "Male"])
    with pytest.raises(UserError, match="are both set"):
        main([*words, "--samples_per_shard", "3", "--megabytes_per_shard", "3"])
    with pytest.raises(UserError, match="no samples"):
        (tmp_path / "empty").mkdir()
        main([str(tmp_path / "empty"), str(tmp_path / "e"), "--kind", "folder"])
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_a_finished_set_is_refused_before_the_source_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for split in ("train", "val"):
        folder_of_pictures(tmp_path / "in" / split, per_class=1)
    made = packed(tmp_path / "in", tmp_path / "out", kind)

    def listing(*arguments: object) -> None:
        raise AssertionError("the source was listed")

    with monkeypatch.context() as patched:
        patched.setattr("data.pack.open_source", listing)
        with pytest.raises(UserError, match=r"finished set \(train\.json\)"):
            packed(tmp_path / "in", tmp_path / "out", kind)
    (tmp_path / "out/train.json").unlink()
    with pytest.raises(UserError, match=r"finished set \(val\.json\)"):
        packed(tmp_path / "in", tmp_path / "out", kind)
    assert packed(tmp_path / "in", tmp_path / "out", kind, overwrite=True) == made


@pytest.mark.parametrize(
    ("name", "key"), [("a/b.c.jpg", "a/b_c_jpg"), ("/a/../b", "a/b"), ("..", "_"), ("a\\b\n", "a_b_"), ("ü/x", "ü/x")]
)
def test_keys_are_made_fit(name: str, key: str) -> None:
    assert fit_key(name) == key


def test_keys_that_become_equal_stay_apart(tmp_path: Path) -> None:
    """Two samples of one key are one sample to every reader of WebDataset tars: a picture would be lost."""
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("a.b", "a_b", "a_b-2")):
        (tmp_path / "in" / f"{name}.jpg").write_bytes(jpeg(i))
    packed(tmp_path / "in", tmp_path / "out", shuffle=False)
    (batch,) = every_sample(str(tmp_path / "out/train.json"), TransformConfig(size=8), batch_size=4)
    assert len(set(batch.keys)) == 3


def test_killed_twenty_times_at_random_and_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of the packing process (its workers end themselves) at 20 random moments: the same bytes in the end."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # For power cuts; a kill loses nothing of a file.
    source = folder_of_pictures(tmp_path / "in", per_class=16)
    options = {"samples_per_shard": 2, "convert": ConvertConfig(size=24, format="png"), "name": "set", "processes": 2}
    began = time.monotonic()
    expected = packed(source, tmp_path / "whole", **options)
    whole = time.monotonic() - began
    rng, kills, rounds, kept = random.Random(0), 0, 0, 0
    while kills < 20:
        out = tmp_path / f"killed-{rounds}"
        while not (out / "train.json").exists() or (out / STATE).exists():
            config = PackConfig(source=str(source), out=str(out), kind="folder", **options)  # type: ignore[arg-type]
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                try:
                    pack(config, show_progress=False)
                finally:
                    os._exit(0)
            with contextlib.suppress(OSError):  # Both do it, so that the group is there whoever comes first.
                os.setpgid(child, child)
            if kills >= 20:
                os.waitpid(child, 0)
                continue
            # Not a wait for something to happen: the moment of the kill is the test's input.
            moment = time.monotonic() + rng.uniform(0, whole * 0.6)
            while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < moment:
                time.sleep(0.002)
            if not ended:
                os.kill(child, signal.SIGKILL) if rng.random() < 0.5 else os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                shown = list(out.glob("*.tar")) if out.exists() else []
                kept += len(shown)
                whole *= 1 if shown else 1.3  # On a busy machine the kills come too early at first.
                assert all(path.read_bytes() == expected[path.name] for path in shown), (
                    "a half-written shard is visible"
                )
        assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
        rounds += 1
    assert kills >= 20
    assert kept > 0


def test_classes_that_only_other_splits_have_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_pictures(tmp_path / "in/train", 3, ("cat", "dog"))
    folder_of_pictures(tmp_path / "in/val", 3, ("cat", "emu"))
    main([str(tmp_path / "in"), str(tmp_path / "out"), "--kind", "folder", "--processes", "1"])
    told = capsys.readouterr().err
    assert "note: classes of other splits without a picture in train: emu" in told
    main([str(tmp_path / "in/val"), str(tmp_path / "val"), "--kind", "folder", "--processes", "1"])
    assert "without a picture in train" not in capsys.readouterr().err
