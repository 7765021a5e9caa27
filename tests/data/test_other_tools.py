"""Sets of other tools go in whole, by the public commands; ours are read by `webdataset` and `datasets`."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.index import main as index_main
from data.inspect import FOUND
from data.inspect import main as inspect_main
from data.pack import PackConfig, pack
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.loading import load_index
from launch.command.cli import UserError
from tests.data.archives import members
from tests.data.making import encoded, jpeg, picture_set, write_tar
from tests.data.serving import served
from tests.data.shards.tars import Member, special, tar_file

FOREIGN = Path(__file__).parent / "foreign"
SMALL = TransformConfig(size=8)
MASK = encoded(np.zeros((8, 8), np.uint8), "PNG")


def read(index: Path) -> dict[str, tuple[int, str]]:
    """Label and caption by key, of all samples that decode."""
    batches = every_sample(str(index), SMALL, batch_size=4, max_damaged=0.0)
    return {
        key: (int(label), text)
        for batch in batches
        for key, label, text in zip(batch.keys, batch.label_B, batch.captions, strict=True)
    }


def indexed(tar: Path, *options: str) -> Path:
    """The index that the command makes of a tar, verified."""
    out = tar.with_suffix(".json")
    assert index_main([str(tar), str(out), "--hashes", "false", *options]) == 0
    assert inspect_main([str(out), "--verify", "--processes", "1"]) == 0
    return out


def packed(source: Path, out: Path, **options: object) -> dict[str, dict[str, bytes]]:
    """What packing makes of a tar: members by key."""
    pack(PackConfig(source=str(source), out=str(out), kind="tars", processes=1, **options), show_progress=False)  # type: ignore[arg-type]
    assert inspect_main([str(out / "train.json"), "--verify", "--processes", "1"]) == 0
    found: dict[str, dict[str, bytes]] = {}
    for name, contents in members((out / "train-000000.tar").read_bytes()).items():
        key, _, extension = name.partition(".")
        found.setdefault(key, {})[extension] = contents
    return found


def unpacked(name: str, folder: Path) -> Path:
    tar = folder / name.removesuffix(".gz")
    tar.write_bytes(gzip.decompress((FOREIGN / name).read_bytes()))
    return tar


def test_img2dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = unpacked("img2dataset.tar.gz", tmp_path)
    expected = {f"{i:06d}": (-1, f"picture number {i}, with an ü") for i in range(5)}
    assert read(indexed(tar)) == expected
    told = capsys.readouterr().out
    assert "taken: 5 pictures, 5 captions" in told
    assert "ignored: 5, members that are not read (5 .json)" in told
    assert "left out" not in told
    found = packed(tar, tmp_path / "out")
    assert {key: sorted(of) for key, of in found.items()} == {key: ["jpg", "json", "txt"] for key in expected}


def test_bsdtar_with_the_files_of_macos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(indexed(unpacked("bsdtar.tar.gz", tmp_path)))
    assert found == {f"cat/{i:03d}": (-1, f"a cat {i}") for i in range(3)} | {"cat/copy": (-1, "")}
    assert "ignored: 6, macOS's own files" in capsys.readouterr().out


def test_a_tar_of_windows(tmp_path: Path) -> None:
    things: list[Member] = []
    for i in range(3):
        things += [(f"Train\\Cats\\{i:03d}.JPG", jpeg(i)), (f"Train\\Cats\\{i:03d}.TXT", b"two\r\nlines\r\n")]
        things += [(f"Train\\Cats\\{i:03d}.CLS", b"1\r\n")]
    things += [("Train\\Cats\\Thumbs.db", b"x"), ("Train\\desktop.ini", b"x")]
    assert read(indexed(tar_file(tmp_path / "w.tar", things))) == {
        f"Train/Cats/{i:03d}": (1, "two lines") for i in range(3)
    }


def test_the_list_of_a_hub_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture_set(tmp_path / "set", [3, 2])
    info = {"splits": {"train": {"filenames": ["set-00.tar", "set-01.tar"], "shard_lengths": [3, 2]}}}
    (tmp_path / "set/_info.json").write_text(json.dumps(info))
    out = tmp_path / "train.json"
    assert index_main([f"{tmp_path}/set/_info.json#train", str(out), "--hashes", "false"]) == 0
    assert len(read(out)) == 5 and "taken: 5 pictures, 5 labels" in capsys.readouterr().out


def test_a_list_of_remote_tars_is_opened_only_for_a_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    things = [(f"{i}", {"depth.png": MASK, "jpg": jpeg(i)}) for i in range(3)]
    write_tar(tmp_path / "a/a.tar", things)
    info = {"splits": {"train": {"filenames": ["a.tar"], "shard_lengths": [3]}}}
    (tmp_path / "a/_info.json").write_text(json.dumps(info))
    out = tmp_path / "a.json"
    with served(tmp_path / "a") as server:
        assert index_main([f"{server.url}/_info.json", str(out)]) == 0
        assert "the tars were not opened" in capsys.readouterr().out
        assert load_index(out).layout.picture == ()
        assert index_main([f"{server.url}/_info.json", str(out), "--overwrite", "--picture", "depth.png"]) == 0
        assert "taken: 3 pictures" in capsys.readouterr().out
        assert load_index(out).layout.picture == ("depth.png",)
        assert len(read(out)) == 3


def test_a_picture_is_never_replaced_by_its_mask(tmp_path: Path) -> None:
    pictures = [encoded(np.full((8, 8, 3), i, np.uint8), "PNG") for i in range(4)]
    things = [(f"{i}", {"jpg": pictures[i], "png": MASK, "depth.png": MASK}) for i in range(4)]
    tar = write_tar(tmp_path / "a.tar", things)
    found = packed(tar, tmp_path / "out")
    assert found == {str(i): {"jpg": pictures[i], "png": MASK, "depth.png": MASK} for i in range(4)}
    for index in (indexed(tar), tmp_path / "out/train.json"):
        for batch in every_sample(str(index), TransformConfig(size=8), batch_size=4):
            assert sorted(batch.pixels_BCHW[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]
    masks = packed(tar, tmp_path / "masks", picture=["png"])
    assert {of["png"] for of in masks.values()} == {MASK}
    for batch in every_sample(str(tmp_path / "masks/train.json"), TransformConfig(size=8), batch_size=4):
        assert batch.pixels_BCHW.max() == 0


def test_a_depth_map_before_its_picture(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"{i}", {"depth.png": MASK, "jpg": jpeg(i)}) for i in range(3)])
    index, out = indexed(tar), tmp_path / "out"
    assert packed(tar, out)["0"] == {"depth.png": MASK, "jpg": jpeg(0)}
    for one in (index, out / "train.json"):
        (batch,) = every_sample(str(one), SMALL, batch_size=3)
        assert all(picture.max() > 0 for picture in batch.pixels_BCHW)
    index_main([str(tar), str(index), "--overwrite", "--picture", "depth.png", "--hashes", "false"])
    (batch,) = every_sample(str(index), SMALL, batch_size=3)
    assert batch.pixels_BCHW.max() == 0


def test_names_with_dots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"frame.{i:04d}", {"jpg": jpeg(i), "cls": b"0"}) for i in range(8)])
    with pytest.raises(UserError, match="keys=last_dot"):
        index_main([str(tar), str(tmp_path / "a.json")])
    with pytest.raises(UserError, match="keys=last_dot"):
        packed(tar, tmp_path / "no")
    assert read(indexed(tar, "--keys", "last_dot")) == {f"frame.{i:04d}": (0, "") for i in range(8)}
    found = packed(tar, tmp_path / "out", keys="last_dot")
    assert found == {f"frame_{i:04d}": {"jpg": jpeg(i), "cls": b"0"} for i in range(8)}
    # An index made by an earlier version: one sample, which verification finds.
    old = {"__kind__": "wids-shard-index-v1", "meta": {}, "shardlist": [{"url": "a.tar", "nsamples": 1}]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    capsys.readouterr()
    assert inspect_main([str(tmp_path / "old.json"), "--verify", "--processes", "1"]) == FOUND
    assert "frame: 0000.jpg, 0001.jpg" in capsys.readouterr().out


def test_members_apart_and_links_are_put_together(tmp_path: Path) -> None:
    things: list[Member] = [*((f"{i}.jpg", jpeg(i)) for i in range(4)), *((f"{i}.cls", b"%d" % i) for i in range(4))]
    for i in range(4):
        things += [special(f"{i}c.{name}", tarfile.LNKTYPE, f"./{i}.{name}") for name in ("jpg", "cls")]
    tar = tar_file(tmp_path / "a.tar", things)
    expected = {f"{i}{end}": {"jpg": jpeg(i), "cls": b"%d" % i} for i in range(4) for end in ("", "c")}
    assert packed(tar, tmp_path / "out") == expected
    assert read(indexed(tar)) == {f"{i}{end}": (i, "") for i in range(4) for end in ("", "c")}


@pytest.mark.parametrize("cache", [False, True])
def test_members_apart_behind_a_url(tmp_path: Path, cache: bool) -> None:
    from itertools import islice

    from data.config import DataConfig
    from data.reading.stream import Stream

    things: list[Member] = [*((f"{i}.jpg", jpeg(i)) for i in range(6)), *((f"{i}.cls", b"%d" % i) for i in range(6))]
    things += [special("6.jpg", tarfile.SYMTYPE, "2.jpg")]
    tar_file(tmp_path / "a/a.tar", things)
    with served(tmp_path / "a") as server:
        assert index_main([f"{server.url}/a.tar", str(tmp_path / "a.json")]) == 0
        where = str(tmp_path / "cache") if cache else None
        config = DataConfig(index=str(tmp_path / "a.json"), batch_size=7, lanes=1, transform=SMALL, cache=where)
        with Stream(config, seed=0) as stream:
            (batch,) = islice(stream.batches(), 1)
        assert dict(zip(batch.keys, batch.label_B.tolist(), strict=True)) == {str(i): i for i in range(6)} | {"6": -1}
        assert not stream.tally.damaged
        (tmp_path / "a.offsets.npz").unlink()
        with Stream(config, seed=0) as stream, pytest.raises(UserError, match=r"offsets file.*is missing"):
            next(stream.batches())


def test_pictures_that_dots_in_names_hide_are_counted_one_by_one(tmp_path: Path) -> None:
    """Once hidden they are one sample: 60 frames of a clip among 240 other pictures are a fifth, not 1 of 241."""
    others = [(f"{i:03d}", {"jpg": jpeg(i)}) for i in range(240)]
    clip = [(f"clip.{i:02d}", {"jpg": jpeg(i)}) for i in range(60)]
    tar = write_tar(tmp_path / "a.tar", [*others, *clip])
    with pytest.raises(UserError, match=r"60 of 300 pictures \(20.0%\) are left out.*keys=last_dot"):
        index_main([str(tar), str(tmp_path / "a.json")])


def test_what_is_left_out_is_weighed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def some(lost: int) -> Path:
        names = [(f"{i:03d}", {"jpg": jpeg(i)}) for i in range(100 - lost)]
        return write_tar(tmp_path / f"{lost}.tar", [*names, *((f"x{i}", {"txt": b"?"}) for i in range(lost))])

    indexed(some(1))
    assert "warning" not in capsys.readouterr().out
    indexed(some(5))
    told = capsys.readouterr().out
    assert "warning: 5 of 100 pictures (5.0%) are left out: 5 no picture (x0.txt, x1.txt" in told
    with pytest.raises(UserError, match=r"allow_left_out=0\.1 is exceeded: 20 of 100 pictures"):
        index_main([str(some(20)), str(tmp_path / "20.json")])
    assert not (tmp_path / "20.json").exists()
    assert index_main([str(tmp_path / "20.tar"), str(tmp_path / "20.json"), "--allow_left_out", "0.2"]) == 0
    capsys.readouterr()
    assert inspect_main([str(tmp_path / "20.json")]) == 0
    assert "left out of the pictures: 20, no picture" in capsys.readouterr().out


def test_a_quarantine_list_is_not_taken_for_other_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    things: list[Member] = [(f"{i}.jpg", jpeg(i)) for i in range(4)]
    tar = tar_file(tmp_path / "a.tar", [*things, ("x.png", b"no picture"), ("x.png", b"no picture")])
    index, listed = tmp_path / "a.json", tmp_path / "a.quarantine.json"
    index_main([str(tar), str(index), "--hashes", "false"])
    assert inspect_main([str(index), "--verify", "--quarantine", "--processes", "1"]) == FOUND and listed.exists()
    index_main([str(tar), str(index), "--hashes", "false", "--overwrite"])
    assert listed.exists(), "the samples are the same"
    tar_file(tar, things[::-1])
    capsys.readouterr()
    index_main([str(tar), str(index), "--hashes", "false", "--overwrite"])
    assert not listed.exists() and listed.with_name("a.quarantine.json.before").exists()
    assert "a.quarantine.json was of the former index" in capsys.readouterr().out


def test_labels_that_are_words_train_and_numbers_get_names(tmp_path: Path) -> None:
    words = write_tar(
        tmp_path / "a.tar", [(str(i), {"jpg": jpeg(i), "cls": b"cat" if i % 2 else b"ant"}) for i in range(6)]
    )
    assert read(indexed(words)) == {str(i): (i % 2, "") for i in range(6)}
    assert load_index(tmp_path / "a.json").classes == ["ant", "cat"]
    found = packed(words, tmp_path / "out")
    assert {of["cls"] for of in found.values()} == {b"0", b"1"}
    assert load_index(tmp_path / "out/train.json").classes == ["ant", "cat"]
    old = {"__kind__": "wids-shard-index-v1", "meta": {}, "shardlist": [{"url": "a.tar", "nsamples": 6}]}
    (tmp_path / "old.json").write_text(json.dumps(old))  # without classes: words are no labels, and stop nothing
    assert read(tmp_path / "old.json") == {str(i): (-1, "") for i in range(6)}
    numbers = write_tar(tmp_path / "n.tar", [(str(i), {"jpg": jpeg(i), "cls": b"%d" % (i % 2)}) for i in range(6)])
    assert load_index(indexed(numbers)).classes == []
    (tmp_path / "names.txt").write_bytes("\ufeffant\r\ncat\r\n".encode())
    index_main([str(tmp_path / "n.json"), str(tmp_path / "m.json"), "--classes", str(tmp_path / "names.txt")])
    assert load_index(tmp_path / "m.json").classes == ["ant", "cat"]
    assert read(tmp_path / "m.json") == {str(i): (i % 2, "") for i in range(6)}


def test_ours_are_read_by_webdataset(tmp_path: Path) -> None:
    import webdataset

    things = [(f"a/{i:03d}", {"jpg": jpeg(i), "cls": b"%d" % (i % 2), "txt": f"number {i}".encode()}) for i in range(6)]
    packed(write_tar(tmp_path / "a.tar", things), tmp_path / "out")
    shards = webdataset.WebDataset(str(tmp_path / "out/train-000000.tar"), shardshuffle=False)
    found = {one["__key__"]: one for one in shards.decode("rgb8")}
    assert set(found) == {f"a/{i:03d}" for i in range(6)}
    assert [found[f"a/{i:03d}"]["cls"] for i in range(6)] == [0, 1] * 3
    assert found["a/004"]["txt"] == "number 4" and found["a/004"]["jpg"].shape == (24, 32, 3)


def test_ours_are_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    things = [(f"{i:03d}", {"jpg": jpeg(i), "cls": b"%d" % (i % 2), "txt": f"number {i}".encode()}) for i in range(6)]
    packed(write_tar(tmp_path / "a.tar", things), tmp_path / "out", shuffle=False)
    files = {"train": str(tmp_path / "out/train-*.tar")}
    rows = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert rows["__key__"] == [f"{i:03d}" for i in range(6)]
    assert rows["cls"] == [0, 1] * 3 and rows["txt"] == [f"number {i}" for i in range(6)]
    assert rows[4]["jpg"].size == (32, 24)
