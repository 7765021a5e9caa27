"""Folders of files: a class is a folder, a split is a folder of classes; captions are beside the samples."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from data.packing.sources.base import LFS_POINTER, Raw, Source, existing
from data.packing.sources.captions import Captions, Texts, composed
from data.packing.sources.listing import EXTENSIONS, Listing, is_system, is_true, one, walk
from data.packing.sources.split_names import SplitNames, unknown_splits
from data.shards.sample import DamagedSampleError
from data.shards.tally import extension_in
from launch.command.checks import named
from launch.command.cli import UserError


class FileSource(Source):
    """Samples that are files below one root; subclasses say which and how they are labelled."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        if not root.is_dir():
            raise UserError(f"source={root} is a file, not a folder of {self.media}: name its folder, or another kind")
        self.root = root
        self.captions: Captions | Texts | None = None

    def overlaps(self, out: Path) -> bool:
        """Whether `out` is the root or below it: its files would be listed when the pack is resumed."""
        return self.root.resolve() in (out, *out.parents)

    def names(self) -> Iterable[str]:
        """The files, relative to the root, and their captions."""
        return [*self.paths, *(self.captions.names() if self.captions else ())]

    def read(self, number: int) -> Raw:
        """The file's bytes; its key is its path without the extension."""
        path = self.paths[number]
        contents = (self.root / path).read_bytes()
        if contents.startswith(LFS_POINTER):
            raise DamagedSampleError("a Git LFS pointer, not the file itself: run `git lfs pull`")
        text, how = self.captions.of(path) if self.captions else (None, "")
        members = {} if text is None else {"txt": text}
        return Raw(
            self.key(path), contents, label=int(self.labels[number]), members=members, notes=(how,) if how else ()
        )

    def key(self, path: str) -> str:
        """The sample's key; files that differ only in the extension get different keys."""
        stem, extension = _parts(path)
        return f"{stem}_{extension}" if stem in self.twins else stem

    def fill(self, files: list[tuple[str, int, int, str]]) -> None:
        """Set the fields from (path, size, label, split) of every file."""
        self.paths = [path for path, *_ in files]
        self.sizes = np.array([size for _, size, *_ in files], dtype=np.int64)
        self.labels = np.array([label for _, _, label, _ in files], dtype=np.int64)
        split_of = np.array([split for *_, split in files])
        self.splits = {str(name): np.flatnonzero(split_of == name) for name in dict.fromkeys(split_of.tolist())}
        stems = Counter(_parts(path)[0] for path in self.paths)
        self.twins = {stem for stem, count in stems.items() if count > 1}


def _parts(path: str) -> tuple[str, str]:
    """A path without its extension, and the extension."""
    folder, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    return (f"{folder}{slash}{stem}", extension) if dot else (path, "")


class FolderSource(FileSource):
    """A folder of pictures, sounds or videos: `[split/]class/**/file`; without class folders there are no labels.

    Names of splits are those of `split_names`; captions are where `captions` says.
    """

    about = "picture (with media: sound or video) files, [split/]class/**/file"
    options = ("caption_column", "splits", "media")

    def __init__(
        self,
        root: str,
        caption_column: str | None = None,
        splits: Mapping[str, str] | None = None,
        media: str | None = None,
    ) -> None:
        self.media = media or self.media
        super().__init__(existing(root, f"a folder of {self.media}"))
        listing = Listing(self.root, self.tally, self.media)
        self.captions = Captions(listing, caption_column)
        self.captioned = len(self.captions)
        if caption_column and not self.captioned:
            raise UserError(
                f"caption_column={caption_column} is in no metadata.csv, .jsonl or .parquet below source={root} nor "
                f"in a .json beside a {one(self.media)}: leave it out"
            )
        names = SplitNames(splits)
        filled = {path.split("/")[0] for path, _ in listing.samples if "/" in path}
        tops = split_folders(self.root, names, filled, self.media)
        self._must_be_classes(tops, names, listing)
        own = names.of_folder(self.root.resolve().name)
        if names.whole is None and "" in tops and own not in (None, "", "train"):
            self.tally.noted(f"the source's name says {own}, but all of it is train; "
                             f"--splits '{{\"*\": \"{own}\"}}' makes it {own}", str(root))  # fmt: skip
        files = []
        for path, size in listing.samples:
            split, rest = _split_of(path, tops)
            if split is None:
                self.tally.left_out("beside the folders of splits, in none of them", path, of=self.media)
            elif split:
                files.append((path, size, rest, split))
            else:
                self.tally.ignored("left out by the setting splits", path)
        number = self._number_classes(listing, tops, {_class_of(rest) for _, _, rest, _ in files})
        self.fill([(path, size, number[_class_of(rest)], split) for path, size, rest, split in files])
        empty = set(tops.values()) - set(self.splits) - {""}
        for name in sorted(empty & {split for folder, split in tops.items() if folder}):
            self.tally.noted(f"a split without a {one(self.media)}", name)

    @classmethod
    def certain_splits(cls, source: str, splits: Mapping[str, str] | None = None) -> list[str]:
        """Those whose folder holds a picture; of other kinds none."""
        root = Path(source)
        if not root.is_dir():
            return []
        tops = split_folders(root, SplitNames(splits), None)
        return sorted({split for folder, split in tops.items() if split and has_sample(root / folder)})

    def _number_classes(self, listing: Listing, tops: Mapping[str, str], used: set[str]) -> dict[str, int]:
        """Set the classes, sorted; number of each class folder's name, -1 of none. `used` are those with samples."""
        folders = (_split_of(folder, tops) for folder in listing.folders)
        names = {rest for split, rest in folders if split and rest and "/" not in rest}
        filled = used - {""}
        if not filled:
            return {"": -1}
        self.classes = sorted({composed(name) for name in names | filled})
        for name in sorted({composed(n) for n in names} - {composed(n) for n in filled}):
            self.tally.noted(f"a class folder without a {one(self.media)}, which stays a class", name)
        alike = Counter(name.casefold() for name in self.classes)
        for name in self.classes:
            if alike[name.casefold()] > 1:
                self.tally.noted("classes that differ in case only", name)
        number = {name: i for i, name in enumerate(self.classes)}
        return {"": -1} | {name: number[composed(name)] for name in names | filled}

    def _must_be_classes(self, tops: Mapping[str, str], names: SplitNames, listing: Listing) -> None:
        """UserError where what would be classes, or is below them, is splits."""
        if names.whole is not None:
            return
        below: dict[str, list[str]] = {}
        for folder in listing.folders:
            above, _, name = folder.rpartition("/")
            below.setdefault(above, []).append(name)
        of_classes = [f"{top}/{name}".strip("/") for top in tops for name in below.get(top, ())]
        for place in [top for top in tops if top] + of_classes:
            inside = below.get(place, [])
            if inside and all(names.of_folder(name) for name in inside):
                raise UserError(
                    f"source={self.root} has folders of splits ({named(inside)}) below {place}/: name "
                    f"{self.root / place} as the source, move them to the top, or say that no name is a split's "
                    'by --splits \'{"*": "train"}\''
                )


def split_folders(root: Path, names: SplitNames, filled: set[str] | None, media: str = "pictures") -> dict[str, str]:
    """Folder below `root` ("" is `root`) → its split; "" for one to be left out. Without splits, all is `train`.

    A folder of the same name inside (`train/train`) is gone into, as is a single folder (`data/train`).
    `filled` are the top folders that hold samples; None: look. UserError where only some folders name splits.
    """
    if names.whole is not None:
        return {"": names.whole or "train"}
    folders = class_folders(root)
    found = {name: names.of_folder(name) for name in folders}
    if not any(split is not None for split in found.values()):
        doubtful = names.doubtful(folders)
        if doubtful:
            raise unknown_splits(str(root), doubtful)
        return _below_single(root, folders, names, media) or {"": "train"}
    if not any(found.values()):  # some are left out, no other is a split: these are classes
        return {"": "train"} | {name: "" for name, split in found.items() if split == ""}
    odd = [name for name, split in found.items() if split is None]
    odd = [name for name in odd if (name in filled if filled is not None else has_sample(root / name, media))]
    if odd:
        raise unknown_splits(str(root), odd)
    return {_inner(root, name, split, names): split for name, split in found.items() if split is not None}


def _below_single(root: Path, folders: list[str], names: SplitNames, media: str) -> dict[str, str]:
    """The splits inside the only folder of `root`; nothing where there are none."""
    if len(folders) != 1 or any(extension_in(entry.name) in EXTENSIONS[media] for entry in os.scandir(root)):
        return {}
    found = split_folders(root / folders[0], names, None, media)
    return {f"{folders[0]}/{folder}": split for folder, split in found.items()} if "" not in found else {}


def _inner(root: Path, folder: str, split: str, names: SplitNames) -> str:
    """The folder, or the one of the same split that is all it holds."""
    inside = class_folders(root / folder)
    if len(inside) == 1 and split and names.of_folder(inside[0]) == split:
        return _inner(root, f"{folder}/{inside[0]}", split, names)
    return folder


def _split_of(path: str, tops: Mapping[str, str]) -> tuple[str | None, str]:
    """Split (None: none, "": left out) of a path below the root, and the path from its split's folder."""
    at = len(path)
    while at > 0:
        if path[:at] in tops:
            return tops[path[:at]], path[at + 1 :]
        at = path.rfind("/", 0, at)
    return tops.get(""), path


def _class_of(path: str) -> str:
    """The class folder in a path from its split's folder; nothing for a file beside them."""
    return path.partition("/")[0] if "/" in path else ""


def has_sample(folder: Path, media: str = "pictures") -> bool:
    """Whether a file with an extension of such samples is below a folder."""
    return any(extension_in(path) in EXTENSIONS[media] for path, _ in walk(folder))


def class_folders(top: Path) -> list[str]:
    """The folders in `top`, sorted; hidden and system folders left out."""
    with os.scandir(top) as entries:
        return sorted(entry.name for entry in entries if not is_system(entry.name) and is_true(entry.is_dir))
