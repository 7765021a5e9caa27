"""Texts: packed from files of several kinds, cut without losing a byte, and read in batches."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data.config import TextDataConfig
from data.index import main as index_main
from data.pack import PackConfig, pack
from data.reading.stream import Stream, every_sample_of
from data.shards.loading import load_index
from data.texts.config import TextConvertConfig, cuts
from launch.command.cli import UserError


def texts_of(path: Path) -> dict[str, str]:
    """The texts of a set by their keys."""
    batches = every_sample_of(str(path), TextDataConfig(batch_size=4), 0, 1)
    return {key: text for batch in batches for key, text in zip(batch.keys, batch.texts, strict=True)}


def test_pieces_join_to_the_text_and_end_where_paragraphs_do() -> None:
    text = ("Erster Absatz, kurz.\n\nZweiter, länger, über mehr als eine Zeile\nhinweg. " + "ä" * 40).encode()
    edges = cuts(text, 32)
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert b"".join(pieces) == text
    assert max(map(len, pieces)) <= 32
    assert pieces[0].endswith(b"\n\n")
    for piece in pieces:
        piece.decode()
    assert cuts(text, None) == [0, len(text)]


def test_files_of_all_kinds_become_samples(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for split in ("train", "test"):
        (source / split).mkdir(parents=True)
    book = "A line of this book.\nAnother one, é.\n\n" * 5
    (source / "train" / "book.txt").write_text(book)
    (source / "train" / "lines.jsonl").write_text("".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(3)))
    table = pyarrow.table({"id": [1, 2, 3], "text": ["row one", None, "row three"]})
    pyarrow.parquet.write_table(table, source / "test" / "rows.parquet")
    with (
        pyarrow.OSFile(str(source / "test" / "rows.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as w,
    ):
        w.write_table(table)
    text = TextConvertConfig(longest=64)
    config = {"source": str(source), "out": str(out), "kind": "texts", "processes": 1, "allow_left_out": 0.5}
    pack(PackConfig(**config, text=text), show_progress=False)
    train = texts_of(out / "train.json")
    assert "".join(train[key] for key in sorted(train) if "book" in key) == book
    assert [train[key] for key in sorted(train) if "lines" in key] == ["line 0", "line 1", "line 2"]
    assert sorted(texts_of(out / "test.json").values()) == ["row one"] * 2 + ["row three"] * 2
    with pytest.raises(UserError, match=r"no column text_en: set text\.field to one of id, text"):
        pack(PackConfig(**config | {"source": str(source / "test")}, text=TextConvertConfig(field="text_en")))


def test_tars_of_texts_are_indexed_and_read_in_the_order_of_the_step(tmp_path: Path) -> None:
    from tests.stage2_prior.unified.tiny import write_texts

    write_texts(tmp_path, [f"one\n{i}" for i in range(8)])
    index_main([str(tmp_path / "*.tar"), str(tmp_path / "again.json"), "--media", "texts"])
    assert load_index(str(tmp_path / "again.json")).kind == "texts"
    config = TextDataConfig(index=str(tmp_path / "again.json"), batch_size=4, threads=1)
    with Stream(config, seed=1) as stream:
        batches = stream.batches(0)
        seen = [text for _ in range(2) for text in next(batches).texts]
    assert sorted(seen) == [f"one\n{i}" for i in range(8)]
