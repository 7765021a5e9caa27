"""Captioned digits: sentences that train hasn't, and pictures that show what their sentence says."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.packing.sources.composed import CELL, PLACES, WORDS, CaptionedDigitsSource, sentences_of
from data.packing.sources.tars import TarSource
from data.shards.writer import ShardWriter
from launch.command.cli import UserError


def write_digits(folder: Path, each: int = 2) -> Path:
    """Digits whose brightness is their class: a bright box of 20×12 pixels, each split with `each` of them."""
    tars = ShardWriter(folder)
    tars.begin({}, ["train.json", "held_out.json"])
    indexes = {}
    for split in ("train", "held_out"):
        samples = []
        for i in range(10 * each):
            digit_HW = np.zeros((28, 28), dtype=np.uint8)
            digit_HW[4:24, 8:20] = 100 + 10 * (i % 10) + (i >= 10)
            png = io.BytesIO()
            Image.fromarray(digit_HW).save(png, "png")
            samples.append((f"{i:02d}", {"png": png.getvalue(), "cls": str(i % 10).encode()}))
        record = tars.write(f"{split}-000000.tar", iter(samples))
        indexes[f"{split}.json"] = tars.index([record], name=split, classes=list("0123456789"))
    tars.finish(indexes)
    return folder


def test_held_out_sentences_are_not_in_train_and_pairs_are() -> None:
    train, held_out = sentences_of("train"), sentences_of("held_out")
    assert len({*train, *held_out}) == 600
    assert len(held_out) == 120
    pairs = {tuple(digit for digit, _ in one) for one in train}
    assert pairs == {(one, other) for one in range(10) for other in range(10)}


def test_a_picture_shows_what_its_sentence_says(tmp_path: Path) -> None:
    source = CaptionedDigitsSource(str(write_digits(tmp_path)), count=700)
    assert {name: len(numbers) for name, numbers in source.splits.items()} == {"train": 700, "held_out": 700}
    texts: Counter[str] = Counter()
    for number in (0, 479, 480, 699, 700, 700 + 120, 1399):
        raw = source.read(number)
        assert raw.array is not None
        text = raw.members["txt"].decode()
        texts[text] += 1
        said = dict(reversed(part.split(" at the ")) for part in text.split(", ") if not part.startswith("nothing"))
        assert len(said) == 2
        for place, (row, column) in PLACES.items():
            cell_HW = raw.array[row : row + CELL, column : column + CELL]
            brightest = int(cell_HW.max())
            if place not in said:
                assert brightest == 0
            else:
                assert brightest in (100 + 10 * WORDS.index(said[place]), 101 + 10 * WORDS.index(said[place]))
                assert np.flatnonzero(cell_HW.any(axis=1)).tolist() == list(range(12)), "20 pixels become 12"
    assert source.read(0).members == source.read(480).members, "after all sentences of train comes the first again"
    assert source.read(0).key != source.read(480).key
    assert source.read(700).members == source.read(820).members


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train\.json of pictures with classes"):
        CaptionedDigitsSource(str(tmp_path))


def test_captions_in_a_file_go_with_the_samples_of_its_keys(tmp_path: Path) -> None:
    digits, names = write_digits(tmp_path / "digits", each=1), tmp_path / "names.json"
    names.write_text('{"03": "drei"}')
    source = TarSource(str(digits / "train.json"), captions=str(names))
    assert source.read(3).members["txt"] == b"drei"
    assert "txt" not in source.read(4).members
    assert source.captioned == 10, "those without are told"
    names.write_text('["drei"]')
    with pytest.raises(UserError, match="an object of texts"):
        TarSource(str(digits / "train.json"), captions=str(names))


def test_a_folder_of_tars_has_the_classes_that_its_indexes_name(tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits", each=1)
    assert TarSource(str(digits)).classes == list("0123456789")
    other = json.loads((digits / "held_out.json").read_text()) | {"classes": list("abcdefghij")}
    (digits / "held_out.json").write_text(json.dumps(other))
    assert TarSource(str(digits)).classes == [], "they differ"
