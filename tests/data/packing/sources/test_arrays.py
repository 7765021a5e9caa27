"""Arrays of pictures: splits and labels are found by name, never guessed, and odd ones refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.packing.sources import open_source
from data.packing.sources.base import Source
from launch.command.cli import UserError

PICTURES = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5)


def source(folder: Path, options: dict[str, Any] | None = None, **arrays: Any) -> Source:
    np.savez(folder / "set.npz", **arrays)
    return open_source("array", str(folder / "set.npz"), options)


def test_all_usual_names_of_splits(tmp_path: Path) -> None:
    names = {
        "x_train": "train",
        "validation_images": "validation",
        "X_dev": "dev",
        "testImages": "test",
        "x_eval": "eval",
    }
    found = source(tmp_path, **dict.fromkeys(names, PICTURES))
    assert set(found.splits) == set(names.values())


def test_arrays_that_name_no_split(tmp_path: Path) -> None:
    found = source(tmp_path, images=PICTURES, ids=np.arange(4) + 100, labels=[0, 1, 1, 0], one_hot=np.eye(4))
    assert (set(found.splits), found.labels.tolist()) == ({"train"}, [0, 1, 1, 0])
    told = "\n".join(found.tally.lines())
    assert "array (4, 4) that isn't used" in told and "array (4,) that isn't used" in told
    with pytest.raises(UserError, match=r"x_extra names no known split"):
        source(tmp_path, x_train=PICTURES, x_extra=PICTURES)
    assert set(source(tmp_path, {"splits": {"x_extra": "val"}}, x_train=PICTURES, x_extra=PICTURES).splits) == {
        "train",
        "val",
    }
    with pytest.raises(UserError, match=r"several arrays of pictures for train \(left, right\)"):
        source(tmp_path, left=PICTURES, right=PICTURES)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, 2.0, np.nan, 1.0], [0, 2, -1, 1]),
        ([True, False, True, True], [1, 0, 1, 1]),
        (["b", "a", "b", "a"], [1, 0, 1, 0]),
    ],
)
def test_labels(tmp_path: Path, labels: list[Any], expected: list[int]) -> None:
    assert source(tmp_path, images=PICTURES, y=np.array(labels)).labels.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "why"),
    [([0.0, 2.7, 0, 1], r"holds 2\.7"), ([0, 2 * 10**9, 1, 1], "holds 2000000000"), ([0, -5, 1, 1], "holds -5")],
)
def test_labels_that_are_none(tmp_path: Path, labels: list[Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        source(tmp_path, images=PICTURES, y=np.array(labels))


def test_names_of_classes_are_no_labels(tmp_path: Path) -> None:
    found = source(tmp_path, classes=np.array(["a", "b", "c", "d"]), images=PICTURES, labels=[3, 0, 1, 1])
    assert (found.classes, found.labels.tolist()) == (["a", "b", "c", "d"], [3, 0, 1, 1])
    with pytest.raises(UserError, match="holds 4, but its 2 classes are 0 to 1"):
        source(tmp_path, classes=np.array(["a", "b"]), images=PICTURES, labels=[4, 0, 1, 1])
