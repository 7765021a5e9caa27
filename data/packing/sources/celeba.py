"""CelebA: a folder of aligned pictures, `list_attr_celeba.txt` and `list_eval_partition.txt` (or Kaggle's `.csv`)."""

import csv
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.packing.sources.base import Raw, existing
from data.packing.sources.folders import FileSource
from data.packing.sources.listing import is_system, is_true
from data.shards.text import text_lines
from launch.command.cli import UserError

PARTITIONS = ("train", "val", "test")


class CelebASource(FileSource):
    """Each sample carries its attributes as `attr.json`; `label_attribute` makes one of them the class."""

    about = "CelebA's aligned pictures, attributes and partition"
    options = ("label_attribute",)

    def __init__(self, root: str, label_attribute: str | None = None) -> None:
        top = existing(root, "CelebA's folder")
        folder = next(
            (p for p in (top / "img_align_celeba/img_align_celeba", top / "img_align_celeba") if p.is_dir()), None
        )
        if folder is None:
            raise UserError(f"source={root} has no img_align_celeba/: unpack CelebA's aligned pictures there")
        super().__init__(folder)
        self.attributes, rows = _attributes(_one_of(top, "list_attr_celeba"))
        if label_attribute is not None and label_attribute not in self.attributes:
            raise UserError(f"label_attribute={label_attribute} is not an attribute of CelebA: choose one of "
                            + ", ".join(self.attributes))  # fmt: skip
        column = self.attributes.index(label_attribute) if label_attribute else None
        self.classes = [f"not {label_attribute}", str(label_attribute)] if label_attribute else []
        partition = _partition(_one_of(top, "list_eval_partition"))
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if is_true(entry.is_file)}
        names = self._both(rows, sizes, partition)
        self.values = np.array([rows[name] for name in names], dtype=bool).reshape(len(names), len(self.attributes))
        self.meta = {"attributes": self.attributes}
        labels = self.values[:, column].astype(int).tolist() if column is not None else [-1] * len(names)
        splits = [partition[name] for name in names]
        self.fill(list(zip(names, [sizes[name] for name in names], labels, splits, strict=True)))

    def _both(self, rows: Mapping[str, Any], sizes: Mapping[str, int], partition: Mapping[str, str]) -> list[str]:
        """Pictures that are in the folder and in both lists; the others are left out."""
        for name in sorted({*rows, *sizes}):
            if is_system(name):
                self.tally.ignored("system or hidden files", name)
            elif name not in sizes:
                self.tally.left_out("in list_attr_celeba, but not in the folder", name)
            elif name not in rows:
                self.tally.left_out("not in list_attr_celeba", name)
            elif name not in partition:
                self.tally.left_out("not in list_eval_partition, so of no split", name)
        return sorted(name for name in rows if name in sizes and name in partition)

    def read(self, number: int) -> Raw:
        """The picture with its attributes."""
        values = {name: bool(on) for name, on in zip(self.attributes, self.values[number], strict=True)}
        return dataclasses.replace(super().read(number), members={"attr.json": json.dumps(values).encode()})


def _one_of(top: Path, stem: str) -> Path:
    for name in (f"{stem}.txt", f"{stem}.csv", f"Anno/{stem}.txt", f"Eval/{stem}.txt"):
        if (top / name).exists():
            return top / name
    raise UserError(f"source={top} has no {stem}.txt (or .csv): CelebA's lists belong beside img_align_celeba")


def _table(path: Path) -> list[list[str]]:
    """Rows of words; without the leading count of the `.txt` files."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.reader(file))
    rows = [line.split() for line in text_lines(path.read_bytes()) if line.strip()]
    if not rows:
        raise UserError(f"source: {path} is empty: fetch it again")
    return rows[1:] if len(rows[0]) == 1 else rows


def _partition(path: Path) -> dict[str, str]:
    """Split of each picture; UserError for a number that is none."""
    rows = [row for row in _table(path) if len(row) == 2 and row[1].isdigit()]
    for name, number in rows:
        if int(number) >= len(PARTITIONS):
            raise UserError(f"source: {path} puts {name} into part {number}, but 0, 1, 2 are {', '.join(PARTITIONS)}")
    return {name: PARTITIONS[int(number)] for name, number in rows}


def _attributes(path: Path) -> tuple[list[str], dict[str, list[bool]]]:
    """The attributes' names, and each picture's values."""
    header, *rows = _table(path)
    names = header[1:] if path.suffix == ".csv" else header
    return names, {row[0]: [int(value) > 0 for value in row[1:]] for row in rows}
