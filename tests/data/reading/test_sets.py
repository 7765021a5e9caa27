"""The sets of a training, as far as other tests don't open them."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.config import DataConfig
from data.index import main as index_main
from data.reading.sets import training_sets
from tests.data.making import picture_set


def hashed(folder: Path, count: int) -> Path:
    """A set whose index has the hashes of its shards."""
    index = picture_set(folder, [count])
    index_main([str(folder / "*.tar"), str(index), "--overwrite"])
    return index


def test_a_held_out_set_that_is_a_training_set_is_told(tmp_path: Path) -> None:
    """Also where it is a copy; its figures would be those of pictures that the model has seen."""
    index, other = hashed(tmp_path / "one", 4), hashed(tmp_path / "other", 5)
    unknown, alike = (picture_set(tmp_path / name, [3]) for name in ("unknown", "alike"))
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    copy = tmp_path / "copy" / index.name
    for train, held_out, mixture, same in (
        (index, copy, {}, "data.index"),
        (index, other, {str(other): 0.5}, f"data.mixture[{other}]"),
        (index, other, {}, None),
        (unknown, unknown, {}, "data.index"),
        (unknown, alike, {}, None),  # names and sizes alone don't say that they are the same
    ):
        told: list[str] = []
        training_sets(DataConfig(index=str(train), held_out=str(held_out), mixture=mixture), say=told.append)
        notes = [line for line in told if "is the same set as" in line]
        expected = f"note: data.held_out is the same set as {same}: its figures are those of training samples"
        assert notes == ([expected] if same else [])
