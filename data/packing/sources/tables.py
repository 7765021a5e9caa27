"""Parquet files with a column of pictures, sounds or videos, as the Hub's data sets have them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.packing.sources.base import LFS_POINTER, Raw, Source, existing
from data.packing.sources.captions import first_text
from data.packing.sources.columns import SETTINGS, choose_columns, hub_features
from data.packing.sources.labels import class_numbers
from data.packing.sources.listing import one, walk
from data.packing.sources.split_names import SplitNames
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError, reason

SUFFIXES = (".parquet", ".pq", ".parq")
OPENED = 8
"""Files kept open for reading."""


class ParquetSource(Source):
    """A `.parquet` file or a folder of them; splits are named by files or folders (`split_names`).

    A sample is a struct with `bytes` (the Hub's image, audio or video feature) or plain bytes, or each row has a list
    of them. A label is a whole number (its names come from the Hub's metadata) or a word; a caption is a text, of a
    list the first one.

    Needs pyarrow: `pip install vqloom[parquet]`.
    """

    about = "files with a column of pictures, sounds or videos"
    options = ("image_column", "audio_column", "video_column", "label_column", "caption_column", "splits", "media")

    def __init__(
        self,
        path: str,
        image_column: str | None = None,
        label_column: str | None = None,
        caption_column: str | None = None,
        splits: Mapping[str, str] | None = None,
        audio_column: str | None = None,
        media: str | None = None,
        video_column: str | None = None,
    ) -> None:
        super().__init__()
        named = {"pictures": image_column, "sounds": audio_column, "videos": video_column}
        self.media = media or next((kind for kind, name in reversed(named.items()) if name), "pictures")
        if wrong := next((SETTINGS[kind] for kind, name in named.items() if name and kind != self.media), ""):
            raise UserError(f"{wrong} is not for media={self.media}: leave one of them out")
        self.top = existing(path, "Parquet files")
        names = self._files(path)
        split_of = SplitNames(splits).assign(names, self.tally, path)
        self.files = [self.top if self.top.is_file() else self.top / name for name in names if name in split_of]
        if not self.files:
            raise UserError(f"source={path} has no .parquet files: check the path and the kind")
        self._opened = lru_cache(OPENED)(lambda file: open_parquet(self.files[file]))
        schemas = [self._opened(file).schema_arrow for file in range(len(self.files))]
        self.columns = choose_columns(list(zip(self.files, schemas, strict=True)), named[self.media],
                                      label_column, caption_column, self.tally, self.media)  # fmt: skip
        self._places([split_of[name] for name in names if name in split_of])
        self._fill_labels(schemas)
        self.captioned = int(self.starts[-1]) if self.columns.caption else 0
        self._opened.cache_clear()  # processes that are forked open their own
        self._group = lru_cache(2)(self._read_group)

    def _files(self, path: str) -> list[str]:
        """The files, relative to the source, sorted by path."""
        if self.top.is_file():
            return [self.top.name]
        found = []
        for name, _ in walk(self.top, self.tally):
            if name.lower().endswith(SUFFIXES):
                found.append(name)
            else:
                self.tally.ignored("no .parquet file", name)
        return sorted(found, key=lambda name: Path(name).parts)

    def _places(self, split_of_file: list[str]) -> None:
        """Number the samples of all row groups; `starts` is each group's first sample."""
        self.group_of = [
            (file, group) for file in range(len(self.files)) for group in range(self._opened(file).num_row_groups)
        ]
        counts = [self._opened(file).metadata.row_group(group).num_rows for file, group in self.group_of]
        for file, path in enumerate(self.files):
            if not self._opened(file).metadata.num_rows:
                self.tally.noted("a file without rows", str(path))
        self.per_row: np.ndarray | None = None
        """Samples in each row, where rows have lists of them."""
        if self.columns.listed:
            of_groups = [self.columns.lengths(self._opened(file), group) for file, group in self.group_of]
            self.per_row = np.concatenate([np.empty(0, np.int64), *of_groups])
            counts = [int(lengths.sum()) for lengths in of_groups]
            for row in np.flatnonzero(self.per_row == 0):
                self.tally.left_out(f"a row without a {one(self.media)}", f"row {row}", of=self.media)
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.groups = np.repeat(np.arange(len(counts)), counts)
        splits = [split_of_file[file] for file, _ in self.group_of]
        split_of = np.repeat(np.array(splits), counts)
        self.splits = {str(name): np.flatnonzero(split_of == name) for name in dict.fromkeys(splits)}

    def _fill_labels(self, schemas: Sequence[Any]) -> None:
        self.labels = np.full(int(self.starts[-1]), -1, dtype=np.int64)
        label = self.columns.label
        if label is None:
            return
        values = [value for file in range(len(self.files)) for value in self._column(file, label)]
        numbers, self.classes = class_numbers(
            values,
            f"column {label}",
            self._class_names(schemas, label),
            "name another --label_column, or '' for no classes",
        )
        self.labels = numbers if self.per_row is None else np.repeat(numbers, self.per_row)

    def _class_names(self, schemas: Sequence[Any], column: str) -> list[str]:
        """Class names in the Hub's metadata, or none; UserError where files have other ones."""
        first: tuple[Path, list[str]] | None = None
        for file, schema in zip(self.files, schemas, strict=True):
            names = _hub_names(schema, column)
            if names and first and names != first[1]:
                raise UserError(f"source: {file} has other classes in column {column} than {first[0]}: pack them one "
                                "by one, or make their classes the same")  # fmt: skip
            first = first or ((file, names) if names else None)
        return first[1] if first else []

    def _column(self, file: int, name: str) -> list[Any]:
        """All values of a column; UserError where they can't be read."""
        import pyarrow

        try:
            return self._opened(file).read(columns=[name]).column(name).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"source: column {name} of {self.files[file]} can't be read ({reason(error)}): fetch the "
                            "file again or move it away") from error  # fmt: skip

    def names(self) -> list[str]:
        """Files with their sizes."""
        return [f"{file.name} {file.stat().st_size}" for file in self.files]

    def read(self, number: int) -> Raw:
        """A sample; its row's group stays in memory until two others have been read."""
        assert self.groups is not None
        group = int(self.groups[number])
        row, value = self._group(group)[number - int(self.starts[group])]
        file, _ = self.group_of[group]
        encoded = self._encoded(row, self.files[file].parent)
        key = f"{self.files[file].name.split('.')[0]}/{number:08d}"
        texts = first_text(value)
        members = {"txt": texts[0].encode()} if texts else {}
        notes = (f"several captions of a {one(self.media)}, of which the first is kept",) if len(texts) > 1 else ()
        return Raw(key=key, encoded=encoded, label=int(self.labels[number]), members=members, notes=notes)

    def _encoded(self, row: Any, folder: Path) -> bytes:
        """The bytes in a row, or in the file below the source that it names."""
        encoded = row.get("bytes") if isinstance(row, dict) else row
        if isinstance(encoded, bytes):
            return encoded
        path = row.get("path") if isinstance(row, dict) else None
        if not path:
            raise DamagedSampleError(f"its {one(self.media)} column is empty")
        place = (folder / path).resolve()
        top = self.top if self.top.is_dir() else self.top.parent
        if not place.is_relative_to(top.resolve()) or not place.is_file():
            raise DamagedSampleError(f"its {one(self.media)} is only a path, which isn't a file below the source")
        return place.read_bytes()

    def _read_group(self, group: int) -> list[Any]:
        """Value of the samples' column, and of that of captions (None: without one), of each sample."""
        file, local = self.group_of[group]
        columns = [self.columns.image] + ([self.columns.caption] if self.columns.caption else [])
        import pyarrow

        try:
            table = self._opened(file).read_row_group(local, columns=columns, use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise DamagedSampleError(f"its row group can't be read ({reason(error)})") from error
        samples, *texts = (table.column(name).to_pylist() for name in columns)
        rows: Iterator[Any] = zip(samples, texts[0] if texts else [None] * len(samples), strict=True)
        if not self.columns.listed:
            return list(rows)
        return [(sample, text) for of_row, text in rows for sample in of_row or ()]


def open_parquet(file: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`; UserError for a file that is none, or is damaged."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("kind=parquet needs pyarrow: pip install 'vqloom[parquet]'") from error
    try:
        with file.open("rb") as opened:
            beginning = opened.read(len(LFS_POINTER))
        if beginning == LFS_POINTER:
            raise UserError(
                f"source: {file} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"
            )
        if not beginning:
            raise UserError(f"source: {file} is empty (0 bytes): fetch it again or move it away")
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        raise UserError(f"source: {file} can't be read as Parquet ({why}): fetch it again or move it away") from error


def _hub_names(schema: Any, column: str) -> list[str]:
    """Class names of a label column in the Hub's metadata."""
    try:
        names = hub_features(schema)[column]["names"]
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names, key=int)]
        return [str(name) for name in names]
    except (KeyError, ValueError, TypeError):
        return []
