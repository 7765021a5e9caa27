"""Image folders as people have them: system files, links, odd extensions, and every layout of splits."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.pack import PackConfig, main, pack
from data.packing.indexes import refuse_overlap
from data.packing.sources import open_source
from data.packing.sources.base import Source
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError
from tests.data.archives import members
from tests.data.making import jpeg

SPLIT = {"a/1.jpg", "b/2.jpg"}


def made(root: Path, *paths: str) -> Path:
    """A picture at each of the paths."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(number, 8, 8))
    return root


def source(root: Path, **options: Any) -> Source:
    return open_source("folder", str(root), options)


def splits(found: Source) -> dict[str, set[str]]:
    return {name: {found.paths[i] for i in numbers} for name, numbers in found.splits.items()}


def told(found: Source) -> str:
    return "\n".join(found.tally.lines())


def test_system_files_are_no_classes_and_no_pictures(tmp_path: Path) -> None:
    root = made(
        tmp_path, "train/cat/0.jpg", "val/cat/0.jpg", "__MACOSX/train/cat/._0.jpg", "@eaDir/0.jpg", "lost+found/1.jpg",
        ".git/objects/2.jpg", "train/.ipynb_checkpoints/0.jpg", "train/cat/._0.jpg", "train/cat/@eaDir/0.jpg",
        "#recycle/x.jpg", "$RECYCLE.BIN/y.jpg",
    )  # fmt: skip
    for name in (".DS_Store", "train/Thumbs.db", "train/cat/desktop.ini"):
        (root / name).write_bytes(b"\0\1")
    found = source(root)
    assert splits(found) == {"train": {"train/cat/0.jpg"}, "val": {"val/cat/0.jpg"}}
    assert found.classes == ["cat"]
    assert "ignored: 12, system or hidden files" in told(found) and not found.tally.lost()


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val"), {"train", "val"}),
        (("Train", "VAL", "Test"), {"train", "val", "test"}),
        (("training", "validation", "dev", "eval"), {"train", "validation", "dev", "eval"}),
        (("training_set", "test_set"), {"train", "test"}),
        (("train2017", "val2017"), {"train", "val"}),
        (("partial-train", "held-out"), {"train", "held_out"}),
        (("split=train", "split=extra"), {"train", "extra"}),
        (("train_1", "train_2"), {"train"}),
        (("cat", "dog"), {"train"}),
        (("train_station", "test_tube"), {"train"}),
        (("carnival", "medieval", "interval", "contest", "latest"), {"train"}),
        (("data/train", "data/test"), {"train", "test"}),
        (("set/images/train", "set/images/test"), {"train", "test"}),
        (("train/train", "test/test"), {"train", "test"}),
    ],
)
def test_layouts_of_splits(tmp_path: Path, folders: tuple[str, ...], expected: set[str]) -> None:
    found = source(made(tmp_path, *(f"{folder}/{path}" for folder in folders for path in SPLIT)))
    assert set(found.splits) == expected
    if expected != {"train"} or "train_1" in folders:
        assert found.classes == ["a", "b"]
    else:
        assert found.classes == sorted(folders)
    if "data/train" not in folders and "set/images/train" not in folders:
        assert set(found.certain_splits(str(tmp_path))) == expected


@pytest.mark.parametrize(
    ("folders", "odd"),
    [
        (("train", "val", "extra"), "extra names no known split"),
        (("train", "test", "unlabeled", "more"), "more, unlabeled name no known split"),
        (("bus", "car", "train"), "bus, car name no known split"),
        (("trainA", "trainB", "testA", "testB"), "testA, testB, trainA, trainB"),
        (("trainval", "minival"), "minival, trainval"),
        (("catstrain", "catsval"), "catstrain, catsval"),
        (("cat/train", "cat/test", "dog/train"), r"folders of splits \(test, train\) below cat/"),
        (("images/train", "images/val", "labels/x"), r"below images/: name .*/images as the source"),
    ],
)
def test_what_may_be_splits_is_never_guessed_into_train(tmp_path: Path, folders: tuple[str, ...], odd: str) -> None:
    made(tmp_path, *(f"{folder}/{path}" for folder in folders for path in SPLIT))
    with pytest.raises(UserError, match=odd) as caught:
        source(tmp_path)
    assert "--splits '{" in str(caught.value) and "\n" not in str(caught.value)
    everything = source(tmp_path, splits={"*": "train"})
    assert set(everything.splits) == {"train"}
    assert everything.classes == sorted({folder.split("/")[0] for folder in folders})


def test_a_source_that_is_called_as_a_split_is_train_with_a_word(tmp_path: Path) -> None:
    root = made(tmp_path / "val", "cat/1.jpg")
    assert set(source(root).splits) == {"train"}
    assert "the source's name says val, but all of it is train" in told(source(root))
    assert set(source(root, splits={"*": "val"}).splits) == {"val"}
    (tmp_path / "Train/x").mkdir(parents=True)
    made(tmp_path / "Train", "cat/1.jpg")
    assert "source's name" not in told(source(tmp_path / "Train"))


def test_the_setting_says_what_odd_folders_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made(tmp_path / "in", "train/a/1.jpg", "extra/a/2.jpg", "old/a/3.jpg")
    words = [str(root), str(tmp_path / "out"), "--kind", "folder", "--processes", "1"]
    with pytest.raises(UserError, match=r"extra, old name no known split"):
        main(words)
    main([*words, "--splits", '{"extra": "train", "old": ""}'])
    index = load_index(tmp_path / "out/train.json")
    assert (len(index), index.classes) == (2, ["a"])
    assert "left out by the setting splits" in capsys.readouterr().err
    main([*words[:1], str(tmp_path / "2"), *words[2:], "--splits.extra", "val", "--splits.old", "test"])
    assert {path.name for path in (tmp_path / "2").glob("*.json")} == {"train.json", "val.json", "test.json"}


def test_folders_without_pictures_beside_splits_are_no_odd_ones(tmp_path: Path) -> None:
    root = made(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "loose.jpg")
    (root / "annotations").mkdir()
    (root / "annotations/train.xml").write_text("<a/>")
    (root / "test").mkdir()
    found = source(root)
    assert set(found.splits) == {"train", "val"}
    assert "1, beside the folders of splits, in none of them (1 .jpg): loose.jpg" in told(found)
    assert "(1 .xml): annotations/train.xml" in told(found)
    assert "note: a split without a picture: test" in told(found)


def test_first_bytes_decide(tmp_path: Path) -> None:
    names = ("a.JPG", "b.jpeg", "c.jfif", "d.JPEG", "e.pjpeg", "f.jpg_large", "g", "h.jpe", "i.heic", "j.txt.bin")
    made(tmp_path, *names)
    Image.new("RGB", (4, 4)).save(tmp_path / "k.dat", "PNG")
    (tmp_path / "l.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "m.svg").write_text("<svg/>")
    (tmp_path / "n.nef").write_bytes(b"II*\0" + bytes(60))
    (tmp_path / "o.jpg.part").write_bytes(jpeg(1)[:50])
    (tmp_path / "p.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "q.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (tmp_path / "README").write_text("about")
    found = source(tmp_path)
    assert set(found.paths) == {*names, "k.dat"}
    assert found.key("g") == "g"
    for line in ("1, heic isn't supported: convert it to jpg or png (1 .heic): l.heic", "svg isn't supported",
                 "nef isn't supported", "an unfinished download (1 .part): o.jpg.part",
                 "ignored: 2, no picture by its first bytes (1 .pdf, 1 without extension)",
                 "ignored: 1, a video: --media videos packs those (1 .mp4): q.mp4"):  # fmt: skip
        assert line in told(found), line
    assert found.tally.lost() == 4
    made_of = pack(PackConfig(source=str(tmp_path), out=str(tmp_path.parent / "o"), kind="folder", processes=1,
                              allow_left_out=0.5), show_progress=False)["train"]  # fmt: skip
    stored = members((tmp_path.parent / "o" / made_of[0].url).read_bytes())
    assert {name.rpartition(".")[2] for name in stored} == {"jpg", "png"} and len(stored) == 11


def test_a_folder_without_one_usable_picture_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(
        UserError, match=r"no samples of kind=folder \(left out of the pictures: 1, heic isn't supported"
    ):
        source(tmp_path)


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    (made(tmp_path, "a/1.jpg") / "a/2.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DamagedSampleError, match="Git LFS pointer"):
        source(tmp_path).read(1)


def test_links(tmp_path: Path) -> None:
    root = made(tmp_path / "in", *(f"cat/{i}.jpg" for i in range(12)))
    made(tmp_path / "far", "x.jpg")
    (root / "dog").symlink_to(tmp_path / "far")
    (root / "cat/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "cat/up").symlink_to(root)
    (root / "cat/self.jpg").symlink_to("self.jpg")
    (root / "cat/note").symlink_to("nowhere")
    out = tmp_path / "out"
    pack(
        PackConfig(source=str(root), out=str(out), kind="folder", processes=1, allow_left_out=0.2), show_progress=False
    )
    skipped = json.loads((out / "train.skipped.json").read_text())
    assert skipped["cat/gone.jpg"] == "can't be read: No such file or directory"
    assert set(skipped) == {"cat/gone.jpg", "cat/self.jpg"}
    assert load_index(out / "train.json").meta["counts"] == [12, 1]
    found = source(root)
    assert "a link to a folder that it lies in: cat/up" in told(found) and "a link to nothing: cat/note" in told(found)


def test_pipes_and_sockets_are_left_out_without_opening_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "a/1.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's address has 108 bytes at most
        server.bind("a/socket.jpg")
    found = source(tmp_path)
    assert found.paths == ["a/1.jpg"]
    assert "left out of the pictures: 2, no regular file" in told(found)


def test_classes_of_any_spelling(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "é")
    made(tmp_path, "train/é/1.jpg", f"val/{apart}/2.jpg", "train/Cat/1.jpg", "val/cat/1.jpg", "train/a/b/c/1.jpg")
    (tmp_path / "train/empty").mkdir()
    found = source(tmp_path)
    assert found.classes == ["Cat", "a", "cat", "empty", "é"]
    assert [found.classes[found.labels[i]] for i, p in enumerate(found.paths) if p.endswith(("1.jpg", "2.jpg"))] == [
        "Cat", "a", "é", "cat", "é"
    ]  # fmt: skip
    assert "a class folder without a picture, which stays a class: empty" in told(found)
    assert "classes that differ in case only (2): Cat, cat" in told(found)


def test_pictures_in_no_class_folder_lose_their_labels_with_a_word(tmp_path: Path) -> None:
    made(tmp_path / "in", "cat/1.jpg", "loose.jpg")
    config = PackConfig(source=str(tmp_path / "in"), out=str(tmp_path / "out"), kind="folder", processes=1)
    with pytest.raises(UserError, match=r"1 of 2 labels \(50\.0%\) are left out: 1 no label \(loose\.jpg\)"):
        pack(config, show_progress=False)
    assert not (tmp_path / "out").exists(), "refused before anything was read"


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "cat/1.jpg", "dog/1.jpg")
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"folder .*/dog can't be read \(Permission denied\)"):
        source(tmp_path)


@pytest.mark.parametrize("out", [".", "shards", "cat/shards"])
def test_the_output_must_not_lie_in_the_source(tmp_path: Path, out: str) -> None:
    made(tmp_path, "cat/1.jpg")
    with pytest.raises(UserError, match=r"is a part of source=.*choose a folder elsewhere"):
        pack(PackConfig(source=str(tmp_path), out=str(tmp_path / out), kind="folder", processes=1))
    assert not list(tmp_path.rglob("*.tar")) and not list(tmp_path.rglob(".unfinished"))


def test_a_bucket_is_no_part_of_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "cat/1.jpg")
    monkeypatch.chdir(tmp_path)
    refuse_overlap(source(tmp_path), ".", "s3://bucket/set")
    with pytest.raises(UserError, match="choose a folder elsewhere"):
        refuse_overlap(source(tmp_path), ".", "set")


def test_tars_are_never_packed_onto_themselves(tmp_path: Path) -> None:
    made(tmp_path / "in", *(f"cat/{i}.jpg" for i in range(3)))
    pack(
        PackConfig(source=str(tmp_path / "in"), out=str(tmp_path / "s"), kind="folder", processes=1),
        show_progress=False,
    )
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    for given in ("train.json", "train-000000.tar", "."):
        with pytest.raises(UserError, match="would be written over"):
            again = str(tmp_path / "s" / given)
            pack(PackConfig(source=again, out=str(tmp_path / "s"), kind="tars", processes=1, overwrite=True))
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    made(tmp_path / "in", "cat/1.jpg")
    (tmp_path / "in/cat" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg(3, 8, 8))
    pack(
        PackConfig(source=str(tmp_path / "in"), out=str(tmp_path / "out"), kind="folder", processes=1),
        show_progress=False,
    )
    assert len(load_index(tmp_path / "out/train.json")) == 2


def test_tars_keep_the_split_that_their_name_says(tmp_path: Path) -> None:
    made(tmp_path / "in", *(f"{split}/a/{i}.jpg" for split in ("train", "val") for i in range(2)))
    pack(
        PackConfig(source=str(tmp_path / "in"), out=str(tmp_path / "s"), kind="folder", processes=1),
        show_progress=False,
    )
    for given, expected in (("val.json", {"val"}), ("", {"train", "val"}), ("*.tar", {"train", "val"})):
        found = open_source("tars", str(tmp_path / "s" / given) if given else str(tmp_path / "s"))
        assert set(found.splits) == expected
        assert [len(numbers) for numbers in found.splits.values()] == [2] * len(expected)
    (tmp_path / "s/val-000000.tar").rename(tmp_path / "s/other.tar")
    with pytest.raises(UserError, match=r"other\.tar names no known split"):
        open_source("tars", str(tmp_path / "s"))
