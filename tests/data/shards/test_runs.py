"""Archives from anywhere: links, long names, members apart, system files, what follows the end; nothing is lost."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.classes import held_to
from data.shards.index import ShardIndex
from data.shards.layout import GENERAL, Layout
from data.shards.loading import load_index
from data.shards.offsets import ShardOffsets
from data.shards.runs import samples
from data.shards.sample import Sample, label, read_sample
from data.shards.scanning import index_samples
from data.shards.tally import Tally
from data.shards.tar import walk
from launch.command.cli import UserError
from tests.data.making import jpeg
from tests.data.shards.tars import Member, scanned, special, tar_bytes, tar_file

A, B, C = jpeg(1), jpeg(2), jpeg(3)


def indexed(folder: Path, members: list[Member], **settings: object) -> tuple[ShardIndex, Tally]:
    """The index of one tar, saved and loaded again."""
    tar = tar_file(folder / "a.tar", members)
    index, tally = index_samples([tar], layout=Layout(**settings), base=folder)  # type: ignore[arg-type]
    index.save(folder / "a.json")
    return load_index(folder / "a.json"), tally


def read_all(index: ShardIndex) -> list[Sample]:
    """Each sample by its offsets."""
    assert index.offsets is not None
    raw, found = Path(index.location(0)).read_bytes(), []
    for position in range(len(index)):
        stretches = [index.offsets.extent(0, position), *index.offsets.pieces(0).get(position, ())]
        found.append(read_sample(b"".join(raw[a:b] for a, b in stretches), index.layout))
    return found


def contents(index: ShardIndex) -> dict[str, dict[str, bytes]]:
    return {s.key: {name: bytes(data) for name, data in s.files.items()} for s in read_all(index)}


def test_hard_links_and_symlinks_are_followed(tmp_path: Path) -> None:
    members: list[Member] = [
        special("set", tarfile.DIRTYPE),
        ("set/0.jpg", A),
        ("set/0.cls", b"1"),
        ("other/1.jpg", B),
        special("set/hard.jpg", tarfile.LNKTYPE, "./set/0.jpg"),
        special("set/soft.jpg", tarfile.SYMTYPE, "../other/1.jpg"),
        special("set/twice.jpg", tarfile.SYMTYPE, "hard.jpg"),
        special("set/1.txt", tarfile.SYMTYPE, "0.cls"),
    ]
    index, tally = indexed(tmp_path, members)
    found = contents(index)
    assert {key: of["jpg"] for key, of in found.items()} == {
        "set/0": A,
        "other/1": B,
        "set/hard": A,
        "set/soft": B,
        "set/twice": A,
    }
    assert tally.taken["pictures"] == 5 and tally.lost() == 1  # set/1 has no picture
    # Streams read them too, and a second index of the file without offsets.
    keys = [key for batch in every_sample(index, TransformConfig(size=8), batch_size=3) for key in batch.keys]
    assert keys == [sample.key for sample in read_all(index)]
    (tmp_path / "a.offsets.npz").unlink()
    assert contents(load_index(tmp_path / "a.json")) == found


@pytest.mark.parametrize("target", ["nothing.jpg", "../outside.jpg", "/etc/passwd", "loop.jpg"])
def test_links_to_nothing_are_told_and_left_out(tmp_path: Path, target: str) -> None:
    _, tally = indexed(tmp_path, [("0.jpg", A), special("loop.jpg", tarfile.SYMTYPE, target)])
    assert tally.lost() == 1
    assert any("a link to nothing in the archive" in line and "loop.jpg" in line for line in tally.lines())


def test_devices_and_sparse_files_are_told(tmp_path: Path) -> None:
    members: list[Member] = [("0.jpg", A), special("1.jpg", tarfile.FIFOTYPE), special("pipe", tarfile.FIFOTYPE)]
    _, tally = indexed(tmp_path, members)
    told = "\n".join(tally.lines())
    assert "left out of the pictures: 1, a named pipe (1 .jpg): 1.jpg" in told and "pipe" in told


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_of_gnu_tar_are_left_out_and_the_rest_is_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.jpg").write_bytes(A)
    with (tmp_path / "in/1.jpg").open("wb") as file:
        for hole in range(40):  # more than a header has room for
            file.seek(hole * 300_000)
            file.write(B)
    (tmp_path / "in/2.jpg").write_bytes(C)
    order = ["0.jpg", "1.jpg", "2.jpg"]
    command = ["tar", f"--format={form}", "--sparse", "-cf", tmp_path / "a.tar", "-C", tmp_path / "in", *order]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("needs GNU tar")
    index, tally = index_samples([tmp_path / "a.tar"], layout=Layout(), base=tmp_path)
    assert [sample.key for sample in read_all(index)] == ["0", "2"]
    assert any("a sparse file" in line and "1.jpg" in line for line in tally.lines())


def test_members_apart_are_read_in_pieces(tmp_path: Path) -> None:
    members: list[Member] = [(f"{i}.jpg", jpeg(i)) for i in range(6)]
    members += [(f"{i}.cls", b"%d" % (i % 2)) for i in range(6)]
    members += [(f"{i}.txt", b"number %d" % i) for i in range(6)]
    index, tally = indexed(tmp_path, members)
    assert contents(index) == {
        str(i): {"jpg": jpeg(i), "cls": b"%d" % (i % 2), "txt": b"number %d" % i} for i in range(6)
    }
    assert (tally.taken["labels"], tally.taken["captions"]) == (6, 6)
    assert any("not side by side" in line and "data.pack --kind tars" in line for line in tally.lines())
    batch = next(iter(every_sample(index, TransformConfig(size=8), batch_size=6)))
    assert batch.label_B.tolist() == [0, 1] * 3 and batch.captions[5] == "number 5"
    assert [s.label_B.tolist() for s in every_sample(index.only(0), TransformConfig(size=8), batch_size=6)] == [
        [0, 1, 0, 1, 0, 1]
    ]


def test_masks_apart_do_not_become_samples(tmp_path: Path) -> None:
    members: list[Member] = [*((f"{i}.jpg", jpeg(i)) for i in range(4)), *((f"{i}.png", b"mask") for i in range(4))]
    index, _ = indexed(tmp_path, members)
    assert {key: of["jpg"] for key, of in contents(index).items()} == {str(i): jpeg(i) for i in range(4)}


def test_one_key_twice_stays_two_samples(tmp_path: Path) -> None:
    index, _ = indexed(tmp_path, [("0.jpg", A), ("1.jpg", B), ("0.jpg", C)])
    assert [(s.key, bytes(s.files["jpg"])) for s in read_all(index)] == [("0", A), ("1", B), ("0", C)]


def test_labels_in_another_tar_are_told(tmp_path: Path) -> None:
    pictures = tar_file(tmp_path / "a.tar", [(f"{i}.jpg", jpeg(i)) for i in range(3)])
    labels = tar_file(tmp_path / "b.tar", [(f"{i}.cls", b"0") for i in range(3)])
    index, tally = index_samples([pictures, labels], layout=Layout(), base=tmp_path)
    assert index.sizes == [3] and tally.lost("labels") == 3 and tally.lost() == 0
    with pytest.raises(UserError, match=r"3 of 3 labels .* in another tar than the picture"):
        tally.settle()


def test_system_files_between_members_do_not_split_a_sample(tmp_path: Path) -> None:
    members: list[Member] = []
    for i in range(3):
        for name, data in ((f"{i}.jpg", jpeg(i)), (f"{i}.cls", b"0")):
            members += [(f"._{name}", b"\0\x05\x16\x07" + bytes(100)), (name, data)]
    members += [(".DS_Store", b"x"), ("__MACOSX/._0.jpg", b"x"), ("PaxHeader/0.jpg", b"30 mtime=1\n")]
    index, tally = indexed(tmp_path, members)
    assert contents(index) == {str(i): {"jpg": jpeg(i), "cls": b"0"} for i in range(3)}
    assert tally.lost() == 0 and "9 .jpg" not in "".join(tally.lines())
    assert any(line.startswith("ignored: 7, macOS's own files") for line in tally.lines())


def test_first_bytes_decide_where_the_name_does_not(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(600)
    members: list[Member] = [
        ("one", A),
        ("two", B),
        ("three.jpg_large", C),
        ("four.jpeg~orig", A),
        ("NOTES", b"a text"),
        ("README", b"a text"),
        ("phone.heic", heic),
    ]
    index, tally = indexed(tmp_path, members)
    assert list(contents(index)) == ["one", "two", "three", "four"]
    told = "\n".join(tally.lines())
    assert "no picture" in told and "NOTES" in told
    assert "ignored: 1, files about the set" in told and "README" in told
    assert "heic pictures can't be decoded (1 .heic): phone.heic" in told and tally.lost() == 2
    (tmp_path / "a.offsets.npz").unlink()
    assert list(contents(load_index(tmp_path / "a.json"))) == ["one", "two", "three", "four"]


@pytest.mark.parametrize("name", [r"train\cat\000.jpg", r"v1.0\000.jpg", r"C:\sets\000.jpg"])
def test_backslashes_separate_folders(tmp_path: Path, name: str) -> None:
    index, tally = indexed(tmp_path, [(name, A), (name.replace(".jpg", ".cls"), b"0"), ("plain.jpg", B)])
    assert list(contents(index)) == [name.replace("\\", "/").removesuffix(".jpg"), "plain"]
    assert (tally.taken["labels"], tally.lost()) == (1, 0)


def test_a_member_that_leaves_the_archive_is_left_out_alone(tmp_path: Path) -> None:
    index, tally = indexed(tmp_path, [(f"{i}.jpg", jpeg(i)) for i in range(12)] + [("..\\..\\x.jpg", A)])
    assert len(index) == 12 and tally.lost() == 1
    assert tally.settle() == [
        "warning: 1 of 13 pictures (7.7%) are left out: 1 a name that leaves the archive (../../x.jpg)"
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_links_to_them(tmp_path: Path, form: int) -> None:
    long = "a" * 90 + "/" + "b" * 90
    members: list[Member] = [(f"{long}.jpg", A), ("0.jpg", B)]
    if form != tarfile.USTAR_FORMAT:  # whose links have 100 bytes
        members.append(special(f"{long}c.jpg", tarfile.LNKTYPE, f"{long}.jpg"))
    tar_file(tmp_path / "a.tar", members, form)
    index, _ = index_samples([tmp_path / "a.tar"], layout=Layout(), base=tmp_path)
    expected = [(long, A), ("0", B), (f"{long}c", A)][: len(members)]
    assert [(s.key, bytes(s.files["jpg"])) for s in read_all(index)] == expected


def test_names_in_latin_1_and_with_line_breaks(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("Möwe/größe.jpg", "two\nlines.jpg", "lost\nö.txt"):
            archive.addfile(tarfile.TarInfo(name))
    index, tally = index_samples([tmp_path / "a.tar"], layout=Layout(), base=tmp_path)
    index.meta["tally"] = tally.to_json()
    index.save(tmp_path / "a.json")
    again = load_index(tmp_path / "a.json")
    assert [sample.key for sample in read_all(again)] == ["Möwe/größe", "two\nlines"]
    assert Tally.from_json(again.meta["tally"]).lines() == tally.lines()
    assert any("lost\ufffdö.txt" in line for line in tally.lines())


def test_archives_one_after_the_other_are_read_whole(tmp_path: Path) -> None:
    raw = tar_bytes([("0.jpg", A)]) + tar_bytes([("1.jpg", B), ("2.jpg", C)])
    (tmp_path / "a.tar").write_bytes(raw)
    index, tally = index_samples([tmp_path / "a.tar"], layout=Layout(), base=tmp_path)
    assert [bytes(s.files["jpg"]) for s in read_all(index)] == [A, B, C]
    assert any("another archive follows" in line for line in tally.lines())


def test_what_follows_the_end_and_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes([("0.jpg", A)]) + b"garbage" * 100)
    index, tally = index_samples([tmp_path / "a.tar"], layout=Layout(), base=tmp_path)
    assert len(index) == 1 and any("is no archive" in line for line in tally.lines())


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x1f\x8b\x08" + bytes(600), "gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed by zstd"),
        (b"PK\3\4" + bytes(600), "compressed by zip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n" + b" " * 500, "pointer of Git LFS"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (tar_bytes([]), r"no pictures in .*a\.tar; extensions there: none"),
        (b"<!DOCTYPE html><html>" + b" " * 600, "web page"),
        (tar_bytes([("0.jpg", A)])[:900], "ends within a member"),
        (tar_bytes([("0.jpg", A)])[: 512 + 1024], "end"),
        (b"", "end marker is missing"),
    ],
)
def test_what_is_no_whole_tar_is_one_line(tmp_path: Path, raw: bytes, why: str) -> None:
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(UserError, match=why) as caught:
        index_samples([tmp_path / "a.tar"], layout=Layout(), base=tmp_path)
    assert "\n" not in str(caught.value) and "a.tar" in str(caught.value)


def test_odd_headers() -> None:
    info = tarfile.TarInfo("folder/")  # as tars of the 1980s have directories
    info.type = tarfile.AREGTYPE
    old = info.tobuf(tarfile.USTAR_FORMAT)
    assert [entry.kind for entry in walk(io.BytesIO(old + tar_bytes([("0.jpg", A)])))] == ["directory", "file"]
    signed = bytearray(tar_bytes([("ä.jpg", A)]))
    total = sum(byte - 256 if byte > 127 else byte for byte in signed[:148] + signed[156:512]) + 256
    signed[148:156] = b"%06o\0 " % total
    assert scanned(bytes(signed)).keys == ["ä"]
    pax = tarfile.TarInfo("0.jpg")
    pax.pax_headers = {"size": "many"}
    assert "size" in scanned(pax.tobuf(tarfile.PAX_FORMAT) + bytes(1024)).damage


def test_labels_that_are_words_become_classes(tmp_path: Path) -> None:
    words = [b"dog", b"cat\r\n", b"\xef\xbb\xbfdog", b"7"]
    members = [pair for i, w in enumerate(words) for pair in ((f"{i}.jpg", jpeg(i)), (f"{i}.cls", w))]
    index, tally = indexed(tmp_path, members)  # type: ignore[arg-type]
    assert index.classes == ["7", "cat", "dog"] and index.layout.labels == "names"
    assert [index.label_of(sample) for sample in read_all(index)] == [2, 1, 2, 0]
    assert any("make 3 classes in alphabetical order" in line for line in tally.lines())


def test_names_are_held_to_the_classes_of_another_set(tmp_path: Path) -> None:
    index, _ = indexed(tmp_path, [("0.jpg", A), ("0.cls", b"dog"), ("1.jpg", B), ("1.cls", b"cat")])
    other = held_to(index, ["fox", "dog", "cat"], "a mixture")
    assert [other.label_of(sample) for sample in read_all(other)] == [1, 2]


def test_labels_with_a_list_of_classes(tmp_path: Path) -> None:
    tar = tar_file(tmp_path / "a.tar", [("0.jpg", A), ("0.cls", b"dog"), ("1.jpg", B), ("1.cls", b"wolf")])
    index, tally = index_samples([tar], layout=Layout(), classes=["dog", "cat"], base=tmp_path)
    assert index.classes == ["dog", "cat"] and tally.lost("labels") == 1
    with pytest.raises(UserError, match=r"labels that are none of the classes .*wolf"):
        tally.settle()
    tar = tar_file(tmp_path / "b.tar", [("0.jpg", A), ("0.cls", b"1"), ("1.jpg", B), ("1.cls", b"2")])
    index, tally = index_samples([tar], layout=Layout(), classes=["1", "2", "3"], base=tmp_path)
    assert index.layout.labels == "numbers"
    assert [index.label_of(sample) for sample in read_all(index)] == [1, 2]


def test_without_classes_a_word_is_no_label_and_stops_nothing() -> None:
    raw = tar_bytes([("0.jpg", A), ("0.cls", b"cat")])
    assert label(read_sample(raw[: 512 * (len(A) // 512 + 4)]), 0) == -1


def test_an_archive_read_through_gives_the_same_samples(tmp_path: Path) -> None:
    members: list[Member] = [("._0.jpg", b"x"), ("0.jpg", A), ("0.cls", b"1"), ("x.txt", b"x"), ("1.jpg", B)]
    layout = Layout(picture=("jpg",))
    raw = tar_bytes(members)
    found = [(start, read_sample(piece, layout)) for start, piece in samples(io.BytesIO(raw), 0, layout)]
    assert [(s.key, sorted(s.files)) for _, s in found] == [("0", ["cls", "jpg"]), ("1", ["jpg"])]
    assert [start for start, _ in found] == scanned(raw, layout).samples(layout).starts[:2]


def test_pieces_are_kept_in_the_offsets_file(tmp_path: Path) -> None:
    offsets = ShardOffsets.from_starts([[0, 512], [0, 512, 1024]], [{}, {1: [(2048, 2560), (512, 1024)]}])
    offsets.save(tmp_path / "a.npz")
    for again in (ShardOffsets.load(tmp_path / "a.npz"), ShardOffsets.from_bytes((tmp_path / "a.npz").read_bytes())):
        assert again.pieces(0) == {} and again.pieces(1) == {1: [(2048, 2560), (512, 1024)]}
        assert again.of_shards([1]).pieces(0) == again.pieces(1)
    plain = ShardOffsets.from_starts([[0, 512]])
    plain.save(tmp_path / "b.npz")
    assert ShardOffsets.load(tmp_path / "b.npz").pieces(0) == {}
    assert os.path.getsize(tmp_path / "b.npz") < 700  # noqa: PTH202


def test_every_key_is_a_sample_without_a_rule() -> None:
    walked = scanned(tar_bytes([("0.toy", b"x"), ("1.npy", b"x"), ("2.cls", b"1")]), GENERAL)
    assert walked.samples(GENERAL).keys == ["0", "1", "2"]
