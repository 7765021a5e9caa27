"""Texts: files of plain text, JSON lines, Parquet or Arrow files (as the Hub's data sets are stored), or a folder."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data.packing.sources.base import Raw, Source, existing
from data.packing.sources.listing import walk
from data.packing.sources.split_names import SplitNames
from data.packing.sources.tables import SUFFIXES, open_parquet
from data.shards.text import decode_text, text_lines
from data.texts.config import TextConvertConfig, cuts
from launch.command.cli import UserError, reason

_PLAIN, _LINES, _ARROW = (".txt", ".text", ".md"), (".jsonl", ".ndjson"), (".arrow",)
_OPENED = 2


class TextSource(Source):
    """Each plain file, JSON line or row is a text, which becomes one or more samples (TextConvertConfig.longest).

    Splits are named by files or folders (`split_names`). Parquet and Arrow files need pyarrow.
    """

    media = "texts"
    about = "texts: .txt, .md, .jsonl, .parquet or .arrow files, or folders of them"
    options = ("text", "splits")

    def __init__(
        self, path: str, text: TextConvertConfig | None = None, splits: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.text = text or TextConvertConfig()
        self.top = existing(path, "texts")
        names = [self.top.name] if self.top.is_file() else self._listed()
        split_of = SplitNames(splits).assign(names, self.tally, path)
        self.files = [self.top if self.top.is_file() else self.top / name for name in names if name in split_of]
        self._names = [name for name in names if name in split_of]
        self._texts = lru_cache(_OPENED)(lambda file: list(self._read_file(self.files[file])))
        rows: list[tuple[int, int, int, int]] = []
        split_of_row: list[str] = []
        for file, name in enumerate(self._names):
            before = len(rows)
            for number, (contents, _) in enumerate(self._texts(file)):
                if not contents.strip():
                    self.tally.left_out("an empty text", f"{name} {number}", of=self.media)
                    continue
                edges = cuts(contents, self.text.longest)
                rows += [(file, number, a, b) for a, b in pairwise(edges) if contents[a:b].strip()]
            split_of_row += [split_of[name]] * (len(rows) - before)
        self._texts.cache_clear()  # processes that are forked read their own
        self._rows_N4 = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self.labels = np.full(len(rows), -1, dtype=np.int64)
        self.sizes = self._rows_N4[:, 3] - self._rows_N4[:, 2]
        self.groups = self._rows_N4[:, 0]
        splits_N = np.array(split_of_row)
        self.splits = {str(name): np.flatnonzero(splits_N == name) for name in dict.fromkeys(split_of_row)}

    def _listed(self) -> list[str]:
        found = []
        for name, _ in walk(self.top, self.tally):
            if name.lower().endswith((*_PLAIN, *_LINES, *_ARROW, *SUFFIXES)):
                found.append(name)
            else:
                self.tally.ignored("no file of texts", name)
        if not found:
            raise UserError(f"source={self.top} has no files of texts: it may have .txt, .md, .jsonl, .parquet, .arrow")
        return sorted(found, key=lambda name: Path(name).parts)

    def names(self) -> list[str]:
        """Files with their sizes."""
        return [f"{name} {file.stat().st_size}" for name, file in zip(self._names, self.files, strict=True)]

    def overlaps(self, out: Path) -> bool:
        """Whether `out` is the source or below it."""
        return self.top.is_dir() and self.top.resolve() in (out, *out.parents)

    def read(self, number: int) -> Raw:
        """A piece of a text; its key has the text's number in its file, and the piece's."""
        file, row, first, last = self._rows_N4[number].tolist()
        stem = self._names[file].rpartition(".")[0]
        contents, how = self._texts(file)[row]
        return Raw(f"{stem}/{row:08d}_{first:08d}", encoded=contents[first:last], notes=(how,) if how else ())

    def _read_file(self, path: Path) -> Iterator[tuple[bytes, str]]:
        """The texts of a file in UTF-8, and how each was read where that should be told.

        UserError where the file can't be read or has no such column.
        """
        suffix = path.suffix.lower()
        if suffix in (*SUFFIXES, *_ARROW):
            yield from ((text.encode(), "") for text in self._column(path, suffix))
        elif suffix in _LINES:
            for number, line in enumerate(text_lines(path.read_bytes())):
                yield self._value(path, number, line).encode() if line.strip() else b"", ""
        else:
            text, how = decode_text(path.read_bytes())
            yield text.encode(), how

    def _value(self, path: Path, number: int, line: str) -> str:
        try:
            found = json.loads(line)[self.text.field]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'source: line {number + 1} of {path} has no "{self.text.field}" ({reason(error)}): mend it, or name '
                "another text.field"
            ) from error
        if not isinstance(found, str):
            raise UserError(f'source: line {number + 1} of {path} has a "{self.text.field}" that is no text')
        return found

    def _column(self, path: Path, suffix: str) -> Iterator[str]:
        """The texts of a Parquet or Arrow file; empty ones for rows without."""
        field = self.text.field
        file = open_parquet(path) if suffix in SUFFIXES else _open_arrow(path)
        schema = file.schema_arrow if suffix in SUFFIXES else file.schema
        if field not in schema.names:
            raise UserError(f"source: {path} has no column {field}: set text.field to one of {', '.join(schema.names)}")
        batches: Any = file.iter_batches(columns=[field]) if suffix in SUFFIXES else file
        for batch in batches:
            for value in batch.column(batch.schema.get_field_index(field)).to_pylist():
                if not isinstance(value, str | None):
                    raise UserError(f"source: column {field} of {path} holds no texts: set text.field to another")
                yield value or ""


def _open_arrow(path: Path) -> Any:
    """The record batches of an Arrow file, which `datasets` stores as a stream."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError("Arrow files need pyarrow: pip install 'vqloom[parquet]'") from error
    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"source: {path} can't be read as Arrow ({reason(error)}): fetch it again") from error
