"""Parquet files with a column of pictures, as the Hub's data sets have them."""

import json
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.packing.sources.base import Raw, Source, existing
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError


class ParquetSource(Source):
    """A `.parquet` file or a folder of them; files named `train-…`, `test-…` are splits of that name.

    A picture is a struct with `bytes` (the Hub's image feature) or plain bytes; a label is a whole number (its names
    come from the Hub's metadata) or a string. Needs pyarrow: `pip install vqloom[parquet]`.
    """

    about = "files with a column of pictures"
    options = ("image_column", "label_column", "caption_column")

    def __init__(
        self,
        path: str,
        image_column: str | None = None,
        label_column: str | None = None,
        caption_column: str | None = None,
    ) -> None:
        super().__init__()
        parquet = _pyarrow()
        top = existing(path, "Parquet files")
        self.files = [top] if top.is_file() else sorted(top.rglob("*.parquet"))
        if not self.files:
            raise UserError(f"source={path} has no .parquet files: check the path and the kind")
        opened = [parquet.ParquetFile(file) for file in self.files]
        schema = opened[0].schema_arrow
        self.image = image_column or _image_column(schema, path)
        self.label = label_column or next(
            (n for n in ("label", "labels", "class", "fine_label") if n in schema.names), None
        )
        self.caption = caption_column
        for name in filter(None, (self.image, self.label, self.caption)):
            if name not in schema.names:
                raise UserError(f"column {name} isn't in {self.files[0]}: choose one of {', '.join(schema.names)}")
        self._places(opened)
        self._fill_labels(opened, schema)
        self._group = lru_cache(2)(self._read_group)
        self._opened = cache(lambda file: _pyarrow().ParquetFile(self.files[file]))

    def _places(self, opened: list[Any]) -> None:
        """Number the row groups of all files; `starts` is each group's first row."""
        counts, self.group_of, splits = [], [], []
        for i, file in enumerate(opened):
            for group in range(file.num_row_groups):
                self.group_of.append((i, group))
                counts.append(file.metadata.row_group(group).num_rows)
                splits.append(_split_of(self.files[i]))
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.groups = np.repeat(np.arange(len(counts)), counts)
        split_of = np.repeat(np.array(splits), counts)
        self.splits = {str(name): np.flatnonzero(split_of == name) for name in dict.fromkeys(splits)}

    def _fill_labels(self, opened: list[Any], schema: Any) -> None:
        self.labels = np.full(int(self.starts[-1]), -1, dtype=np.int64)
        if self.label is None:
            return
        values = [v for file in opened for v in file.read(columns=[self.label]).column(self.label).to_pylist()]
        if any(isinstance(value, str) for value in values):
            self.classes = sorted({value for value in values if value is not None})
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = np.array([number.get(value, -1) for value in values], dtype=np.int64)
            return
        self.labels = np.array([-1 if value is None else value for value in values], dtype=np.int64)
        names = _hub_names(schema, self.label)
        self.classes = names or [str(i) for i in range(int(self.labels.max(initial=-1)) + 1)]

    def names(self) -> list[str]:
        """Files with their sizes."""
        return [f"{file.name} {file.stat().st_size}" for file in self.files]

    def read(self, number: int) -> Raw:
        """A row; its group stays in memory until two others have been read."""
        assert self.groups is not None
        group = int(self.groups[number])
        row, text = self._group(group)[number - int(self.starts[group])]
        encoded = row.get("bytes") if isinstance(row, dict) else row
        if not isinstance(encoded, bytes):
            raise DamagedSampleError("its picture column is empty")
        file, _ = self.group_of[group]
        key = f"{self.files[file].name.split('.')[0]}/{number:08d}"
        members = {"txt": text.encode()} if isinstance(text, str) else {}
        return Raw(key=key, encoded=encoded, label=int(self.labels[number]), members=members)

    def _read_group(self, group: int) -> list[Any]:
        """Picture and caption (None: without one) of each row."""
        file, local = self.group_of[group]
        columns = [self.image] + ([self.caption] if self.caption else [])
        table = self._opened(file).read_row_group(local, columns=columns, use_threads=False)
        pictures, *texts = (table.column(name).to_pylist() for name in columns)
        return list(zip(pictures, texts[0] if texts else [None] * len(pictures), strict=True))


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("kind=parquet needs pyarrow: pip install 'vqloom[parquet]'") from error
    return pyarrow.parquet


def _split_of(file: Path) -> str:
    """The split in the Hub's file names: `train-00000-of-00002.parquet`, `data/test/0.parquet`."""
    for word in (*re.split(r"[^a-z]+", file.name.lower()), file.parent.name.lower()):
        if word in ("train", "validation", "valid", "val", "test"):
            return word
    return "train"


def _image_column(schema: Any, path: str) -> str:
    """The first column that holds pictures: a struct with `bytes`, or bytes."""
    import pyarrow

    types = pyarrow.types
    structs = [f.name for f in schema if types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    for name in (*structs, *(f.name for f in schema if types.is_binary(f.type) or types.is_large_binary(f.type))):
        return str(name)
    raise UserError(f"source={path} has no column of pictures: name it with --image_column")


def _hub_names(schema: Any, column: str) -> list[str]:
    """Class names of a label column in the Hub's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, ValueError, TypeError):
        return []
