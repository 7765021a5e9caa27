"""Captions of picture and sound files: lists as the Hub's folders have them, and files beside the samples.

A list is a `metadata.csv`, `.jsonl` or `.parquet`. Its `file_name` (or a column `…_file_name`) is a path from the
list's folder; `text`, else `caption` (of sounds also `transcription`, `sentence`), is the caption. A file beside
`a.jpg` is `a.txt`, `a.caption` or `a.json` with a `caption` or `text`. A list goes before a file. Of several captions
of a sample the first is kept.
"""

import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.packing.sources.listing import Listing, one
from data.shards.text import decode_text
from launch.command.cli import UserError

_TEXT = {"pictures": ("text", "caption"), "sounds": ("text", "caption", "transcription", "sentence")}
_TEXT["videos"] = _TEXT["pictures"]
"""Columns of captions, the first one first, by kind of sample."""


class Texts:
    """Captions that are known, by the sample's path."""

    def __init__(self, of: Mapping[str, str]):
        self._of = of

    def __len__(self) -> int:
        return len(self._of)

    def names(self) -> list[str]:
        """What distinguishes these captions from others."""
        return [f"{path} {text}" for path, text in sorted(self._of.items())]

    def of(self, path: str) -> tuple[bytes | None, str]:
        """The caption of a sample (None: without one), and nothing to tell of it."""
        return (self._of[path].encode() if path in self._of else None), ""


class Captions:
    """The captions of the samples in a listing; `column` names the lists' column of them."""

    def __init__(self, listing: Listing, column: str | None = None):
        self.listing, self.tally, self._column = listing, listing.tally, column
        self._one = one(listing.media)
        self.listed: dict[str, str] = {}
        """Captions in lists, by the sample's path."""
        self.beside: dict[str, tuple[str, int]] = {}
        """Path and size of the caption file of a sample, by the sample's path."""
        known = {composed(path): path for path, _ in listing.samples} if listing.lists or listing.texts else {}
        for file in listing.lists:
            self._list(file, known)
        self._files(known)

    def __len__(self) -> int:
        return len(self.listed) + len(self.beside)

    def names(self) -> list[str]:
        """What distinguishes these captions from others."""
        files = sorted(f"{path} {size}" for path, size in self.beside.values())
        return [*files, *map(" ".join, sorted(self.listed.items()))]

    def of(self, path: str) -> tuple[bytes | None, str]:
        """The caption of a sample (None: without one), and what was done to read it."""
        if path in self.listed:
            return self.listed[path].encode(), ""
        if path not in self.beside:
            return None, ""
        raw = (self.listing.top / self.beside[path][0]).read_bytes()
        text, how = decode_text(raw)
        if self.beside[path][0].lower().endswith(".json"):
            return self._in_json(text, how)
        return text.encode() if text.strip() else None, how

    def _list(self, file: str, known: Mapping[str, str]) -> None:
        """Read a list, and find the sample of each of its captions."""
        folder = posixpath.dirname(file)
        several = f"further captions of a {self._one}, of which the first is kept"
        for name, texts in _captions(self._rows(file), self._column, file, self.listing):
            path = known.get(composed(posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))))
            if path is None:
                self.tally.left_out(f"no {self._one} of this name", f"{name} in {file}", of="captions")
            elif path in self.listed:
                self.tally.ignored(several, path, count=len(texts))
            else:
                self.listed[path] = texts[0]
                if len(texts) > 1:
                    self.tally.ignored(several, path, count=len(texts) - 1)

    def _rows(self, file: str) -> list[dict[str, Any]]:
        """The rows of a list; UserError for one that can't be read."""
        whole = self.listing.top / file
        try:
            if file.lower().endswith(".parquet"):
                return _parquet_rows(whole.read_bytes(), whole)
            text, how = decode_text(whole.read_bytes())
        except OSError as error:
            raise UserError(f"{whole} can't be read ({error.strerror}): check its rights") from error
        if how:
            self.tally.noted(how, file)
        return _csv_rows(text, whole) if file.lower().endswith(".csv") else _json_rows(text, whole)

    def _files(self, known: Mapping[str, str]) -> None:
        """Find the sample of each file of captions."""
        stems: dict[str, list[str]] = {}
        for path in known.values() if self.listing.texts else ():
            stems.setdefault(composed(path.rpartition(".")[0]), []).append(path)
        odd = []
        for stem, (path, size) in self.listing.texts.items():
            name = composed(stem)
            of = stems.get(name, [known[name]] if name in known else [])  # a.jpg.txt is the caption of a.jpg as well
            for picture in of:
                if picture in self.listed:
                    self.tally.ignored(f"beside a {self._one} whose caption is in a list", path)
                else:
                    self.beside[picture] = (path, size)
            if not of:
                odd.append(path)
        for path in odd:
            # Where no text file belongs to a picture they are no captions: class lists, notes, labels.
            if self.beside and not path.lower().endswith(".json"):
                self.tally.left_out(f"no {self._one} of this name", path, of="captions")
            else:
                self.tally.ignored(f"a text file beside no {self._one} of its name", path)

    def _in_json(self, text: str, how: str) -> tuple[bytes | None, str]:
        """The caption in a JSON file beside a sample, as img2dataset writes it, and what was done to read it."""
        try:
            values = json.loads(text)
        except ValueError:
            return None, f"the .json beside a {self._one} isn't JSON"
        if not isinstance(values, dict):
            return None, how
        usual = ("caption", "text", *_TEXT[self.listing.media][2:])
        texts = first_text(values.get(self._column) if self._column else _first(values, usual))
        return texts[0].encode() if texts else None, how


def composed(path: str) -> str:
    """The path with letters and accents composed (NFC): a Mac's file names have them apart."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def first_text(value: Any) -> list[str]:
    """The captions in a value: a text, or a list of them; none of nothing."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = (str(text).encode("utf-8", "replace").decode() for text in values if text is not None)
    return [text for text in texts if text.strip()]  # without halves of characters, which JSON can hold


def _captions(
    rows: list[dict[str, Any]], column: str | None, file: str, listing: Listing
) -> Iterator[tuple[str, list[str]]]:
    """File name and captions of each row that has both."""
    tally, usual = listing.tally, _TEXT[listing.media]
    columns = list(dict.fromkeys(name for row in rows for name in row if isinstance(name, str)))
    place = next((n for n in columns if n == "file_name"), next((n for n in columns if n.endswith("_file_name")), None))
    if place is None or not any(name in columns for name in ([column] if column else usual)):
        if column and place is not None:
            raise UserError(f"caption_column={column} isn't in {file}: choose one of {', '.join(columns)}")
        lacks = "file_name" if place is None else f"{' or '.join(usual)}; --caption_column names another"
        tally.ignored(f"a list without {lacks} (columns {', '.join(columns[:8])})", file)
        return
    read = (place, column) if column else (place, next(name for name in usual if name in columns))
    if unread := [name for name in columns if name not in read]:
        tally.noted(f"columns of a list that aren't read ({', '.join(unread[:8])})", file)
    for row in rows:
        value = row.get(column) if column else _first(row, usual)
        if row.get(place) and (texts := first_text(value)):
            yield str(row[place]), texts


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the first name that is there."""
    return next((values[name] for name in names if name in values), None)


def _csv_rows(text: str, file: Any) -> list[dict[str, Any]]:
    """Rows of a table separated by commas, semicolons or tabs, whichever gives its header a file name."""
    first: list[dict[str, Any]] = []
    for delimiter in ",;\t":
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error as error:
            raise UserError(f"{file} can't be read as a table ({error}): mend or remove it") from error
        if rows and any(str(name).endswith("file_name") for name in rows[0]):
            return rows
        first = first or rows
    return first


def _json_rows(text: str, file: Any) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand in a caption
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not any(str(name).endswith("file_name") for name in row):
            raise UserError(f"{file}, line {number} is no JSON object with a file_name: correct it")
        rows.append(row)
    return rows


def _parquet_rows(raw: bytes, file: Any) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow: pip install 'vqloom[parquet]'") from error
    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(raw)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} can't be read as Parquet ({str(error).splitlines()[0]}): mend or remove it") from error
