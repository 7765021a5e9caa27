"""Folders of picture files: a class is a folder, a split is a folder of classes; captions are beside the pictures."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data.media import KINDS
from data.packing.sources.base import Raw, Source, existing
from launch.command.cli import UserError

EXTENSIONS = frozenset(KINDS["pictures"].members) - {"img"}
SPLITS = ("train", "val", "valid", "validation", "test", "held_out")


class FileSource(Source):
    """Pictures that are files below one root; subclasses say which and how they are labelled."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.texts: dict[str, int] = {}
        """Size of each caption file `<path>.txt`, by the path without the extension."""
        self.captions: dict[str, str] = {}
        """Captions in `metadata.jsonl` files, by the picture's path."""

    def names(self) -> Iterable[str]:
        """The files, relative to the root, and their captions."""
        texts, captions = sorted(self.texts.items()), sorted(self.captions.items())
        return [*self.paths, *(f"{path}.txt {size}" for path, size in texts), *map(" ".join, captions)]

    def read(self, number: int) -> Raw:
        """The file's bytes; its key is its path without the extension."""
        path = self.paths[number]
        contents = (self.root / path).read_bytes()
        return Raw(self.key(path), contents, label=int(self.labels[number]), members=self._caption(path))

    def _caption(self, path: str) -> dict[str, bytes]:
        stem = path.rpartition(".")[0]
        if path in self.captions:
            return {"txt": self.captions[path].encode()}
        return {"txt": (self.root / f"{stem}.txt").read_bytes()} if stem in self.texts else {}

    def key(self, path: str) -> str:
        """The sample's key; files that differ only in the extension get different keys."""
        stem, _, extension = path.rpartition(".")
        return f"{stem}_{extension}" if stem in self.twins else stem

    def fill(self, files: list[tuple[str, int, int, str]]) -> None:
        """Set the fields from (path, size, label, split) of every file."""
        self.paths = [path for path, *_ in files]
        self.sizes = np.array([size for _, size, *_ in files], dtype=np.int64)
        self.labels = np.array([label for _, _, label, _ in files], dtype=np.int64)
        split_of = np.array([split for *_, split in files])
        self.splits = {str(name): np.flatnonzero(split_of == name) for name in dict.fromkeys(split_of.tolist())}
        stems = Counter(path.rpartition(".")[0] for path in self.paths)
        self.twins = {stem for stem, count in stems.items() if count > 1}


class FolderSource(FileSource):
    """An image folder: `[split/]class/**/picture`; without class folders there are no labels.

    Captions are in a `.txt` of the picture's name beside it, or in a `metadata.jsonl` in the folder or a split's, as
    the Hub's image folders have it: a line for each picture with `file_name` and `text` (or `caption`).
    """

    about = "picture files, [split/]class/**/picture"

    def __init__(self, root: str) -> None:
        super().__init__(existing(root, "a folder of pictures"))
        tops = split_folders(self.root)
        with_splits = self.root not in tops.values()
        self.classes = sorted({name for top in tops.values() for name in class_folders(top)})
        number = {name: i for i, name in enumerate(self.classes)}
        files = []
        for split, top in tops.items():
            texts: dict[str, int] = {}
            before = f"{split}/" if with_splits else ""
            for path, size in pictures(top, texts=texts):
                first, slash, _ = path.partition("/")
                files.append((f"{before}{path}", size, number[first] if slash else -1, split))
            self.texts |= {f"{before}{path}": size for path, size in texts.items()}
        for place in ("", *(f"{split}/" for split in tops if with_splits)):
            self.captions |= {place + path: text for path, text in listed_captions(self.root / place)}
        self.fill(files)
        if not (self.labels >= 0).any():
            self.classes = []

    @classmethod
    def certain_splits(cls, source: str) -> list[str]:
        """Those whose folder holds a picture."""
        if not Path(source).is_dir():
            return []
        return [name for name, top in split_folders(Path(source)).items() if next(pictures(top), None)]


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; where the folders in `root` aren't splits, `root` is `train`."""
    folders = class_folders(root)
    with_splits = bool(folders) and all(name in SPLITS for name in folders)
    return {name: root / name for name in folders} if with_splits else {"train": root}


def class_folders(top: Path) -> list[str]:
    """The folders in `top`, sorted; hidden ones left out."""
    return sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith("."))


def listed_captions(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and caption of each line of a folder's `metadata.jsonl`, if it has one; UserError for another file."""
    file = folder / "metadata.jsonl"
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else [], 1):
        try:
            values = json.loads(line)
            text = values.get("text", values.get("caption"))
            if text is not None:
                yield str(values["file_name"]), str(text)
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{file}, line {number} is no JSON object with a file_name: correct it") from error


def pictures(top: Path, below: str = "", texts: dict[str, int] | None = None) -> Iterator[tuple[str, int]]:
    """Path relative to `top` (with `/`) and size of every picture file below it, in sorted order.

    The sizes of the `.txt` files, by path without the extension, go into `texts`.
    """
    entries = sorted(os.scandir(top / below), key=lambda entry: entry.name)
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from pictures(top, name, texts)
        elif entry.name.rpartition(".")[2].lower() in EXTENSIONS:
            yield name, entry.stat().st_size
        elif texts is not None and name.endswith(".txt"):
            texts[name.removesuffix(".txt")] = entry.stat().st_size
