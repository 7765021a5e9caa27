"""CelebA: a folder of aligned pictures, `list_attr_celeba.txt` and `list_eval_partition.txt` (or Kaggle's `.csv`)."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from data.packing.sources.base import Raw, existing
from data.packing.sources.folders import FileSource
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
        partition = {row[0]: int(row[1]) for row in _table(_one_of(top, "list_eval_partition")) if row[1].isdigit()}
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
        names = sorted(name for name in rows if name in sizes)
        self.values = np.array([rows[name] for name in names], dtype=bool).reshape(len(names), len(self.attributes))
        self.meta = {"attributes": self.attributes}
        labels = self.values[:, column].astype(int).tolist() if column is not None else [-1] * len(names)
        splits = [PARTITIONS[partition.get(name, 0)] for name in names]
        self.fill(list(zip(names, [sizes[name] for name in names], labels, splits, strict=True)))

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
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return rows[1:] if len(rows[0]) == 1 else rows


def _attributes(path: Path) -> tuple[list[str], dict[str, list[bool]]]:
    """The attributes' names, and each picture's values."""
    header, *rows = _table(path)
    names = header[1:] if path.suffix == ".csv" else header
    return names, {row[0]: [int(value) > 0 for value in row[1:]] for row in rows}
