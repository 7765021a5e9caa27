"""Captions in every form that people have them: none is lost, spoiled or given to another picture without a word."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from data.pack import PackConfig, main, pack
from data.packing.sources import open_source
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from launch.command.cli import UserError
from tests.data.making import jpeg

WORDS = "größe, «très»"


def pictures(root: Path, *paths: str) -> Path:
    for path in paths or ("0.jpg", "1.jpg", "2.jpg"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(1, 8, 8))
    return root


def captions(root: Path, **options: Any) -> dict[str, str]:
    """Captions as training reads them, by key."""
    out = root.parent / f"{root.name}-out"
    pack(PackConfig(source=str(root), out=str(out), kind="folder", processes=1, **options), show_progress=False)
    found = {}
    for index in out.glob("*.json"):
        if not index.name.endswith(".skipped.json"):
            for batch in every_sample(str(index), TransformConfig(size=4), batch_size=4, threads=1):
                found |= dict(zip(batch.keys, batch.captions, strict=True))
    return found


def told(root: Path, **options: Any) -> str:
    return "\n".join(open_source("folder", str(root), options).tally.lines())


EXPECTED = {"0": "a cat", "1": WORDS, "2": "a; b"}
ROWS = [{"file_name": f"{key}.jpg", "text": text} for key, text in EXPECTED.items()]


def table(rows: list[dict[str, str]], separator: str = ",") -> str:
    quoted = [[f'"{value}"' for value in row.values()] for row in rows]
    return "\r\n".join(separator.join(row) for row in [list(rows[0]), *quoted]) + "\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_metadata_csv(tmp_path: Path, encoding: str, separator: str) -> None:
    root = pictures(tmp_path / "in")
    (root / "metadata.csv").write_bytes(table(ROWS, separator).encode(encoding))
    assert captions(root) == EXPECTED
    assert ("note: read as" in told(root)) == (encoding in ("utf-16", "cp1252"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_metadata_jsonl(tmp_path: Path, encoding: str, end: str) -> None:
    root = pictures(tmp_path / "in")
    text = "".join(json.dumps(row, ensure_ascii=False) + end for row in ROWS)
    (root / "metadata.jsonl").write_bytes(text.encode(encoding))
    assert captions(root) == EXPECTED


def test_metadata_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    import pyarrow

    root = pictures(tmp_path / "in")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), root / "metadata.parquet")
    assert captions(root) == EXPECTED
    (root / "metadata.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"metadata\.parquet can't be read as Parquet"):
        told(root)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x1c", "\x0b", "\x0c"])
def test_only_line_feeds_end_a_line(tmp_path: Path, separator: str) -> None:
    """wbolster/jsonlines#53: `splitlines` cuts a caption at any of these."""
    root = pictures(tmp_path / "in", "0.jpg")
    line = '{"file_name": "0.jpg", "text": "one' + (separator if separator >= " " else "") + '", "n": 1}\n'
    (root / "metadata.jsonl").write_text(line, encoding="utf-8", newline="")
    assert captions(root) == {"0": "one"}
    (root / "metadata.jsonl").unlink()
    (root / "metadata.csv").write_bytes(f'file_name,text\n0.jpg,"one{separator}two"\n'.encode())
    assert told(root).startswith("taken") and "no picture" not in told(root)


@pytest.mark.parametrize("name", ["./a/0.jpg", "a\\0.jpg", "a//0.jpg", "a/../a/0.jpg", "./a/./0.jpg"])
def test_paths_in_lists(tmp_path: Path, name: str) -> None:
    root = pictures(tmp_path / "in", "a/0.jpg", "b/0.jpg")
    (root / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "yes"}) + "\n")
    assert captions(root) == {"a/0": "yes", "b/0": ""}


def test_lists_in_folders_count_from_their_own_folder(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", "train/a/0.jpg", "val/a/0.jpg", "train/b/0.jpg")
    (root / "train/metadata.csv").write_text("file_name,text\na/0.jpg,of train\n")
    (root / "val/METADATA.JSONL").write_text('{"image_file_name": "a/0.jpg", "caption": "of val"}\n')
    (root / "train/b/metadata.csv").write_text("file_name,text\n0.jpg,of b\n")
    assert captions(root) == {"train/a/0": "of train", "val/a/0": "of val", "train/b/0": "of b"}


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "é")
    root = pictures(tmp_path / "in", f"{apart}.jpg", f"{apart}2.jpg")
    (root / "metadata.jsonl").write_text(json.dumps({"file_name": "é.jpg", "text": "listed"}) + "\n")
    (root / "é2.txt").write_text("beside")
    assert set(captions(root).values()) == {"listed", "beside"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0.txt", WORDS.encode()),
        ("0.TXT", WORDS.encode("utf-8-sig")),
        ("0.txt", WORDS.encode("utf-16")),
        ("0.txt", WORDS.encode("cp1252")),
        ("0.txt", (WORDS + "\r\n").encode()),
        ("0.caption", WORDS.encode()),
        ("0.jpg.txt", WORDS.encode()),
        ("0.json", json.dumps({"caption": WORDS, "url": "?"}).encode()),
        ("0.json", json.dumps({"text": [WORDS, "another"]}).encode()),
    ],
)
def test_captions_beside_pictures(tmp_path: Path, name: str, content: bytes) -> None:
    root = pictures(tmp_path / "in")
    (root / name).write_bytes(content)
    assert captions(root) == {"0": WORDS, "1": "", "2": ""}


def test_what_was_done_to_captions_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "in", *(f"{i}.jpg" for i in range(20)))
    for i in range(18):
        (root / f"{i}.txt").write_bytes(WORDS.encode("cp1252" if i < 3 else "utf-8"))
    (root / "18.json").write_text("{")
    (root / "5.caption").write_text("another")
    (root / "gone.txt").write_text("of nothing")
    main([str(root), str(tmp_path / "out"), "--kind", "folder", "--processes", "1"])
    lines = capsys.readouterr().err
    for line in (
        "taken: 20 pictures, 18 captions",
        "left out of the captions: 1, no picture of this name (1 .txt): gone.txt",
        "ignored: 1, beside another caption file of the same picture (1 .caption): 5.caption",
        "note: read as Windows-1252 (Latin-1), because it isn't UTF-8 (3)",
        "note: without a caption (2)",
        "note: the .json beside a picture isn't JSON: 18",
        "warning: 1 of 19 captions (5.3%) are left out: 1 no picture of this name (gone.txt)",
    ):
        assert line in lines, line


def test_captions_of_no_picture_are_counted_and_refused_above_a_tenth(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in")
    rows = [*ROWS, {"file_name": "/home/me/3.jpg", "text": "lost"}]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"1 of 4 captions.*no picture of this name \(/home/me/3\.jpg in"):
        captions(root)
    assert captions(root, allow_left_out=1.0, overwrite=True) == EXPECTED


def test_text_files_that_are_no_captions(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", "cat/0.jpg")
    (root / "classes.txt").write_text("cat\n")
    (root / "metadata.csv").write_text("id,colour\n0,red\n")
    assert captions(root) == {"cat/0": ""}
    assert "a text file beside no picture of its name (1 .txt): classes.txt" in told(root)
    assert "a list without file_name (columns id, colour) (1 .csv): metadata.csv" in told(root)


def test_the_column_of_captions_can_be_named(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in")
    (root / "metadata.csv").write_text("file_name,prompt,n\n0.jpg,a cat,1\n1.jpg,,2\n")
    assert "a list without text or caption; --caption_column names another (columns file_name, prompt" in told(root)
    assert "columns of a list that aren't read (n)" in told(root, caption_column="prompt")
    assert captions(root, caption_column="prompt") == {"0": "a cat", "1": "", "2": ""}
    with pytest.raises(
        UserError, match=r"caption_column=title isn't in metadata\.csv: choose one of file_name, prompt, n"
    ):
        told(root, caption_column="title")
    (root / "metadata.csv").unlink()
    with pytest.raises(UserError, match=r"caption_column=prompt is in no metadata\.csv"):
        told(root, caption_column="prompt")


def test_of_several_captions_the_first_is_kept_with_a_word(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", "0.jpg", "1.jpg")
    lines = [{"file_name": "0.jpg", "text": t} for t in ("first", "second", "third")]
    lines.append({"file_name": "1.jpg", "text": ["", "one", "two"]})  # type: ignore[dict-item]
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert captions(root) == {"0": "first", "1": "one"}
    assert "ignored: 3, further captions of a picture, of which the first is kept" in told(root)


def test_captions_that_no_file_can_hold(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", "0.jpg", "1.jpg", "2.jpg")
    (root / "metadata.jsonl").write_text('{"file_name": "0.jpg", "text": "lone \\ud83d half"}\n'
                                         '{"file_name": "1.jpg", "text": "with\\u0000 nul\\nand line"}\n'
                                         '{"file_name": "2.jpg", "text": null}\n')  # fmt: skip
    assert captions(root) == {"0": "lone ? half", "1": "with nul and line", "2": ""}


@pytest.mark.parametrize("line", ["[]", "{", '{"text": "no name"}', '"0.jpg"', "null"])
def test_lines_that_are_no_captions_are_refused(tmp_path: Path, line: str) -> None:
    root = pictures(tmp_path / "in")
    (root / "metadata.jsonl").write_text('{"file_name": "0.jpg", "text": "good"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 2 is no JSON object with a file_name"):
        captions(root)
