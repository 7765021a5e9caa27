"""Parquet files as they come: any number, any types of columns, damaged ones, and those that `datasets` writes."""

from __future__ import annotations

import datetime
import math
import resource
from pathlib import Path
from typing import Any

import pytest

from data.pack import PackConfig, main, pack
from data.packing.sources import open_source
from data.packing.sources.base import Source
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError
from tests.data.archives import members
from tests.data.making import jpeg

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def image(number: int) -> dict[str, Any]:
    return {"bytes": jpeg(number, 8, 8), "path": f"{number}.jpg"}


def write(path: Path, count: int = 3, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [image(i) for i in range(count)], **columns}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def source(path: Path, **options: Any) -> Source:
    return open_source("parquet", str(path), options)


def packed(path: Path, out: Path, **options: Any) -> dict[str, bytes]:
    """All members of the set's shards."""
    written = pack(PackConfig(source=str(path), out=str(out), kind="parquet", processes=1, shuffle=False, **options),
                   show_progress=False)  # fmt: skip
    found: dict[str, bytes] = {}
    for records in written.values():
        for record in records:
            found |= members((out / record.url).read_bytes())
    return found


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("data/train-00000-of-00001", "data/dev-00000-of-00001", "data/eval-00000-of-00001"), "train dev eval"),
        (("default/partial-train/0000", "default/test/0000"), "train test"),
        (("split=train/0", "split=extra/0"), "train extra"),
        (("Train-0", "VALIDATION-0"), "train validation"),
        (("0000", "0001"), "train"),
    ],
)
def test_splits(tmp_path: Path, files: tuple[str, ...], expected: str) -> None:
    for name in files:
        write(tmp_path / f"{name}.parquet")
    found = source(tmp_path)
    assert set(found.splits) == set(expected.split())
    assert sum(map(len, found.splits.values())) == 3 * len(files)


def test_an_unknown_split_is_refused_or_named(tmp_path: Path) -> None:
    for name in ("train-0", "extra-0", "old-0"):
        write(tmp_path / "in" / f"{name}.parquet")
    with pytest.raises(UserError, match=r"extra-0\.parquet, old-0\.parquet name no known split"):
        source(tmp_path / "in")
    out = tmp_path / "out"
    main([str(tmp_path / "in"), str(out), "--kind", "parquet", "--processes", "1",
          "--splits", '{"extra-0": "train", "old*": ""}'])  # fmt: skip
    assert len(load_index(out / "train.json")) == 6
    assert {path.name for path in out.glob("*.json")} == {"train.json"}


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    for i in range(60):
        write(tmp_path / "in" / f"train-{i:03d}.parquet", 1, label=[i % 3])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, before[1]))
    try:
        found = packed(tmp_path / "in", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(found) == 120


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer.*git lfs pull"),
        (b"<html>not found</html>", "can't be read as Parquet"),
        (b"PAR1" + bytes(100) + b"PAR1", "can't be read as Parquet"),
    ],
)
def test_files_that_are_no_parquet(tmp_path: Path, content: bytes, why: str) -> None:
    write(tmp_path / "train-0.parquet")
    (tmp_path / "train-1.parquet").write_bytes(content)
    with pytest.raises(UserError, match=why) as caught:
        source(tmp_path)
    assert "train-1.parquet" in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_or_damaged_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "train-0.parquet", 30).read_bytes()
    (tmp_path / "train-0.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="can't be read as Parquet"):
        source(tmp_path)
    damaged = bytearray(whole)
    damaged[200:2000] = bytes(1800)
    (tmp_path / "train-0.parquet").write_bytes(damaged)
    found = source(tmp_path)
    with pytest.raises(DamagedSampleError, match=r"row group can't be read|picture column is empty"):
        found.read(0)


@pytest.mark.parametrize("column", ["label", "image", "text"])
def test_a_column_that_a_later_file_lacks(tmp_path: Path, column: str) -> None:
    write(tmp_path / "train-0.parquet", label=[0, 1, 2], text=["a", "b", "c"])
    table = parquet.read_table(tmp_path / "train-0.parquet")
    parquet.write_table(table.drop_columns([column]), tmp_path / "train-1.parquet")
    with pytest.raises(UserError, match=rf"column {column} isn't in .*train-1.*, though it is in .*train-0"):
        source(tmp_path, caption_column="text")


def test_a_column_of_other_types_in_a_later_file(tmp_path: Path) -> None:
    write(tmp_path / "a/train-0.parquet", label=[0, 1, 2])
    write(tmp_path / "a/train-1.parquet", label=["x", "y", "z"])
    with pytest.raises(UserError, match="column label holds numbers and words"):
        source(tmp_path / "a")
    write(tmp_path / "b/train-0.parquet")
    write(tmp_path / "b/train-1.parquet", image=[[image(0)]] * 3)
    with pytest.raises(UserError, match=r"column image is list.*but struct"):
        source(tmp_path / "b")


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        ([0, 1, 1], [0, 1, 1], ["0", "1"]),
        ([0, None, 1], [0, -1, 1], ["0", "1"]),
        ([0.0, math.nan, 2.0], [0, -1, 2], ["0", "1", "2"]),
        ([True, False, True], [1, 0, 1], ["false", "true"]),
        (["b", "a", None], [1, 0, -1], ["a", "b"]),
        (["b", "", "a"], [1, -1, 0], ["a", "b"]),
        ([-1, -1, 0], [-1, -1, 0], ["0"]),
        ([None, None, None], [-1, -1, -1], []),
    ],
)
def test_labels(tmp_path: Path, labels: list[Any], numbers: list[int], classes: list[str]) -> None:
    found = source(write(tmp_path / "a.parquet", label=labels))
    assert (found.labels.tolist(), found.classes) == (numbers, classes)
    if not classes:
        return
    words = pyarrow.array(labels).dictionary_encode()
    again = source(write(tmp_path / "b.parquet", label=words))
    assert (again.labels.tolist(), again.classes) == (numbers, classes)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([[0, 1], [1], [2]], r"holds lists \(such as \[0, 1\]\)"),
        ([{"id": 1}] * 3, "holds dicts"),
        ([0, 2.7, 1], r"holds 2\.7, which is no class number"),
        ([0, math.inf, 1], "holds inf"),
        ([0, -2, 1], "holds -2"),
        ([0, 2_000_000_000, 1], "holds 2000000000, but classes count from 0 to 999999"),
        ([datetime.date(2026, 1, 1)] * 3, "holds dates"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, labels: list[Any], why: str) -> None:
    file = write(tmp_path / "a.parquet", label=labels)
    with pytest.raises(UserError, match=why) as caught:
        source(file)
    assert "column label" in str(caught.value) and "'' for no classes" in str(caught.value)
    assert source(file, label_column="").classes == []


@pytest.mark.parametrize("names", [["cat", "dog"], {"0": "cat", "1": "dog"}])
def test_names_of_the_hubs_classes(tmp_path: Path, names: Any) -> None:
    import json

    table = pyarrow.table({"image": [image(0), image(1)], "label": [1, 0]})
    about = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": about}), tmp_path / "a.parquet")
    assert source(tmp_path / "a.parquet").classes == ["cat", "dog"]
    table = table.set_column(1, "label", [[1, 2]])
    parquet.write_table(table.replace_schema_metadata({"huggingface": about}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="column label holds 2, but its 2 classes are 0 to 1"):
        source(tmp_path / "b.parquet")


def test_files_of_other_classes_or_without_rows(tmp_path: Path) -> None:
    import json

    def write_named(name: str, names: list[str], rows: int) -> None:
        table = pyarrow.table({"image": [image(i) for i in range(2)], "label": [0, 1]}).slice(0, rows)
        about = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
        parquet.write_table(table.replace_schema_metadata({"huggingface": about}), tmp_path / name)

    write_named("train-0.parquet", ["cat", "dog"], 2)
    write_named("val-0.parquet", ["cat", "dog"], 0)
    found = source(tmp_path)
    assert "note: a file without rows" in "\n".join(found.tally.lines()) and len(found) == 2
    write_named("val-0.parquet", ["dog", "cat"], 2)
    with pytest.raises(UserError, match=r"val-0\.parquet has other classes in column label than .*train-0\.parquet"):
        source(tmp_path)


@pytest.mark.parametrize("kind", ["binary", "large_binary", "list", "list of bytes", "struct of bytes"])
def test_forms_of_picture_columns(tmp_path: Path, kind: str) -> None:
    raw = [jpeg(i, 8, 8) for i in range(3)]
    column = {
        "binary": pyarrow.array(raw),
        "large_binary": pyarrow.array(raw, pyarrow.large_binary()),
        "list": [[image(0)], [image(1)], [image(2)]],
        "list of bytes": [[picture] for picture in raw],
        "struct of bytes": [{"bytes": picture} for picture in raw],
    }[kind]
    parquet.write_table(pyarrow.table({"n": [1, 2, 3], "picture": column}), tmp_path / "a.parquet", row_group_size=2)
    found = packed(tmp_path / "a.parquet", tmp_path / "out")
    assert list(found.values()) == raw


def test_rows_with_several_pictures_or_none(tmp_path: Path) -> None:
    rows = [[image(0), image(1)], [], [image(2)], None, [image(3), image(4), image(5)]]
    texts = ["a", "b", "c", "d", "e"]
    parquet.write_table(pyarrow.table({"images": rows, "label": [0, 1, 2, 3, 4], "text": texts}),
                        tmp_path / "a.parquet", row_group_size=2)  # fmt: skip
    found = packed(tmp_path / "a.parquet", tmp_path / "out", allow_left_out=0.5, caption_column="text")
    assert [found[f"a/{i:08d}.jpg"] for i in range(6)] == [jpeg(i, 8, 8) for i in range(6)]
    assert [found[f"a/{i:08d}.cls"] for i in range(6)] == [b"0", b"0", b"2", b"4", b"4", b"4"]
    assert [found[f"a/{i:08d}.txt"] for i in range(6)] == [b"a", b"a", b"c", b"e", b"e", b"e"]
    assert source(tmp_path / "a.parquet").tally.lost() == 2


def test_pictures_that_are_only_paths(tmp_path: Path) -> None:
    (tmp_path / "in/images").mkdir(parents=True)
    (tmp_path / "in/images/0.jpg").write_bytes(jpeg(7, 8, 8))
    (tmp_path / "secret.jpg").write_bytes(jpeg(8, 8, 8))
    for form in ({"bytes": None}, {}):
        rows = [{"path": path, **form} for path in ("images/0.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "x")]
        schema = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())] if form else
                                [("path", pyarrow.string())])  # fmt: skip
        parquet.write_table(pyarrow.table({"image": pyarrow.array(rows, schema)}), tmp_path / "in/a.parquet")
        found = source(tmp_path / "in")
        assert found.read(0).encoded == jpeg(7, 8, 8)
        for number in (1, 2, 3):
            with pytest.raises(DamagedSampleError, match="isn't a file below the source"):
                found.read(number)


def test_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.parquet", text=[["a", "b"], ["", "c"], []])
    found = packed(file, tmp_path / "out", caption_column="text")
    assert [found.get(f"a/{i:08d}.txt") for i in range(3)] == [b"a", b"c", None]
    pack(PackConfig(source=str(file), out=str(tmp_path / "2"), kind="parquet", processes=1, caption_column="text"))
    told = capsys.readouterr().err
    assert "taken: 3 pictures, 2 captions" in told and "note: without a caption: a/00000002" in told
    assert "note: several captions of a picture, of which the first is kept: a/00000000" in told
    pack(PackConfig(source=str(file), out=str(tmp_path / "3"), kind="parquet", processes=1))
    assert "column text isn't read; --caption_column text makes it the captions" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"caption_column=image holds struct.*not text"):
        source(file, caption_column="image")


def test_several_columns_of_pictures_are_told(tmp_path: Path) -> None:
    found = source(write(tmp_path / "a.parquet", mask=[image(9)] * 3))
    assert "column mask has pictures too, but image is read" in "\n".join(found.tally.lines())
    table = pyarrow.table([[1, 2], [3, 4], [b"", b""]], names=["label", "label", "image"])
    parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"column label is in .* twice"):
        source(tmp_path / "b.parquet")
    parquet.write_table(pyarrow.table({"pixels": [[[1, 2]]], "n": [1]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"no column of pictures \(it has pixels: list<.*n: int64\)"):
        source(tmp_path / "c.parquet")


def test_other_files_beside_are_told(tmp_path: Path) -> None:
    write(tmp_path / "train-0.PARQUET")
    write(tmp_path / ".cache/train-1.parquet")
    (tmp_path / "README.md").write_text("about")
    found = source(tmp_path)
    assert len(found) == 3
    assert "no .parquet file (1 .md): README.md" in "\n".join(found.tally.lines())


def test_a_set_that_datasets_wrote_goes_in_whole(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [image(i) for i in range(6)],
        "label": [0, 1, 2, 0, 1, 2],
        "caption": [f"no. {i}" for i in range(6)],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"]),
                                  "caption": datasets.Value("string")})  # fmt: skip
    for split in ("train", "validation"):
        whole = datasets.Dataset.from_dict(rows, features=features)
        for i in range(2):
            name = f"data/{split}-{i:05d}-of-00002.parquet"
            (tmp_path / "in/data").mkdir(parents=True, exist_ok=True)
            whole.shard(2, i, contiguous=True).to_parquet(tmp_path / "in" / name)
    found = packed(tmp_path / "in", tmp_path / "out", caption_column="caption")
    assert len(found) == 2 * 6 * 3
    assert [found[f"train-0000{i // 3}-of-00002/{i:08d}.jpg"] for i in range(6)] == [jpeg(i, 8, 8) for i in range(6)]
    index = load_index(tmp_path / "out/validation.json")
    assert (len(index), index.classes, index.meta["counts"]) == (6, ["ant", "bee", "cat"], [2, 2, 2])
    assert found["validation-00001-of-00002/00000011.txt"] == b"no. 5"


def test_a_torchvision_image_folder_goes_in_whole(tmp_path: Path) -> None:
    """The layout that torchvision's ImageFolder reads, with its numbers of classes."""
    folder = pytest.importorskip("torchvision.datasets").ImageFolder
    for i, path in enumerate(("b/x.png", "a/y/z.jpg", "B/1.JPEG", "a/2.webp")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(jpeg(i, 8, 8))
    theirs, ours = folder(str(tmp_path)), open_source("folder", str(tmp_path))
    assert ours.classes == theirs.classes
    numbers = {str(Path(path).relative_to(tmp_path)): label for path, label in theirs.samples}
    assert dict(zip(ours.paths, ours.labels.tolist(), strict=True)) == numbers
