"""Folders of picture files: a class is a folder, a split is a folder of classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data.sources.base import Raw, Source, existing

EXTENSIONS = frozenset(["jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jp2", "avif"])
SPLITS = ("train", "val", "valid", "validation", "test", "held_out")


class FileSource(Source):
    """Pictures that are files below one root; subclasses say which and how they are labelled."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.paths: list[str] = []

    def names(self) -> Iterable[str]:
        """The files, relative to the root."""
        return self.paths

    def read(self, number: int) -> Raw:
        """The file's bytes; its key is its path without the extension."""
        path = self.paths[number]
        contents = (self.root / path).read_bytes()
        return Raw(key=self.key(path), encoded=contents, label=int(self.labels[number]))

    def key(self, path: str) -> str:
        """The sample's key; files that differ in the extension alone get different ones."""
        stem, _, extension = path.rpartition(".")
        return f"{stem}_{extension}" if stem in self.twins else stem

    def fill(self, found: list[tuple[str, int, int, str]]) -> None:
        """Take over (path, size, label, split) of every file."""
        self.paths = [path for path, *_ in found]
        self.sizes = np.array([size for _, size, *_ in found], dtype=np.int64)
        self.labels = np.array([label for _, _, label, _ in found], dtype=np.int64)
        split_of = np.array([split for *_, split in found])
        self.splits = {str(name): np.flatnonzero(split_of == name) for name in dict.fromkeys(split_of.tolist())}
        stems = [path.rpartition(".")[0] for path in self.paths]
        seen: set[str] = set()
        self.twins = {stem for stem in stems if stem in seen or seen.add(stem)}  # type: ignore[func-returns-value]


class FolderSource(FileSource):
    """An image folder: `[split/]class/**/picture`; without class folders there are no labels."""

    def __init__(self, root: str) -> None:
        super().__init__(existing(root, "a folder of pictures"))
        tops = split_folders(self.root)
        with_splits = self.root not in tops.values()
        self.classes = sorted({name for top in tops.values() for name in class_folders(top)})
        number = {name: i for i, name in enumerate(self.classes)}
        found = []
        for split, top in tops.items():
            for path, size in pictures(top):
                first, slash, _ = path.partition("/")
                label = number[first] if slash else -1
                found.append((f"{split}/{path}" if with_splits else path, size, label, split))
        self.fill(found)
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


def pictures(top: Path, below: str = "") -> Iterator[tuple[str, int]]:
    """Path relative to `top` (with `/`) and size of every picture file below it, in sorted order."""
    entries = sorted(os.scandir(top / below), key=lambda entry: entry.name)
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from pictures(top, name)
        elif entry.name.rpartition(".")[2].lower() in EXTENSIONS:
            yield name, entry.stat().st_size
