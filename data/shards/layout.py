"""Which members of a tar belong to one sample, and which of them is the picture: the rule, as an index records it.

A sample is all members of one key. The key is the name up to the first dot of its last part (WebDataset's convention)
or, by a setting, up to the last one; what follows is the extension. An index lists the extensions that the picture may
have, the preferred one first. Indexes without a rule of their own (those of other tools, code shards) take the plain
extension before a compound one (`jpg` before `depth.png`), plain ones in the order of `PICTURES`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

from data.shards.signature import PICTURES, SOUNDS

NO_PICTURE = "!"
"""Begins the extension of a member that may be a picture by its name, and by its first bytes is none that is read."""
_NO_PICTURES = frozenset(
    ("cls", "txt", "json", "jsonl", "npy", "npz", "pth", "pt", "pyd", "pkl", "pickle", "cbor", "csv", "tsv", "xml",
     "yaml", "yml", "id", "index", "md", "html", "htm", "caption", "text", "url", "key", "m4a", "mp4", "mkv", "avi",
     "webm", "mov", "tar", "zip", "gz", "h5", "parquet", *SOUNDS)
)  # fmt: skip
"""Last parts of extensions of members that aren't looked into: they are no pictures."""
_SYSTEM = ("thumbs.db", "desktop.ini", "ehthumbs.db")
_ABOUT = (
    "readme",
    "license",
    "licence",
    "copying",
    "changelog",
    "makefile",
    "metadata",
    "info",
    "_info",
    "dataset_info",
)


@dataclass(frozen=True)
class Layout:
    """How the members of a tar make samples."""

    keys: Literal["first_dot", "last_dot"] = "first_dot"
    """Where a member's name splits into key and extension: at the first or the last dot of its last part."""
    picture: tuple[str, ...] = ()
    """Extensions of the picture, in lower case; the first that a sample has is the picture. A run of members without
    one is no sample. Empty: every key is a sample, whose picture is found by the general rule."""
    labels: Literal["numbers", "names"] = "numbers"
    """Whether `cls` members hold numbers of classes or their names."""
    pieces: bool = False
    """Whether some samples' members are not side by side, or are links: the offsets say where they are."""
    former: bool = False
    """Whether the index was made before layouts were recorded. Then every run of members is a sample, system files too,
    and the first picture in the order of the archive is the picture."""

    def split(self, name: str) -> tuple[str, str]:
        """Key and extension (lower case, without the dot) of a member: `a/b.seg.png` → (`a/b`, `seg.png`)."""
        folder, slash, base = name.rpartition("/")
        if self.keys == "first_dot":
            stem, _, extension = base.partition(".")
        else:
            stem, dot, extension = base.rpartition(".")
            stem, extension = (stem, extension) if dot else (extension, "")
        return folder + slash + stem, extension.lower()

    def is_sample(self, form: tuple[str, ...]) -> bool:
        """Whether members of these extensions make a sample."""
        if self.former:
            return True
        if self.picture:
            return any(extension in form for extension in self.picture)
        return any(extension not in ("", NO_PICTURE) for extension in form)

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        values: dict[str, Any] = {"keys": self.keys, "picture": list(self.picture)}
        if self.labels != "numbers":
            values["labels"] = self.labels
        return {**values, "pieces": True} if self.pieces else values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The layout that `to_json` described; ValueError for another one."""
        keys, labels = values.get("keys", "first_dot"), values.get("labels", "numbers")
        picture = values.get("picture", [])
        if keys not in ("first_dot", "last_dot") or labels not in ("numbers", "names") or isinstance(picture, str):
            raise ValueError(f"unknown layout {dict(values)}")
        return cls(keys, tuple(map(str, picture)), labels, bool(values.get("pieces", False)))


GENERAL = Layout()
"""The general rule."""


def is_picture(extension: str) -> bool:
    """Whether a member of this extension is called a picture: `jpg`, `depth.png`."""
    return extension.rpartition(".")[2] in PICTURES


@lru_cache(1024)
def unclear(extension: str) -> bool:
    """Whether only its contents tell if a member of this extension is a picture."""
    return not is_picture(extension) and extension.rpartition(".")[2] not in _NO_PICTURES


def by_preference(extensions: Iterable[str], order: Sequence[str] = PICTURES) -> list[str]:
    """The extensions: plain before compound ones, each in the given order; unknown ones last, by name."""
    rank = {name: i for i, name in enumerate(order)}
    return sorted(set(extensions), key=lambda e: ("." in e, rank.get(e.rpartition(".")[2], len(rank)), e))


def picture_among(extensions: Iterable[str], layout: Layout) -> str | None:
    """The extension of a sample's picture; None without one. ValueError where several are equally good."""
    given = list(extensions)
    if layout.picture:
        return next((extension for extension in layout.picture if extension in given), None)
    pictures = [extension for extension in given if is_picture(extension)]
    if layout.former or len(pictures) < 2:
        return pictures[0] if pictures else None
    ordered = by_preference(pictures)
    if "." in ordered[0]:
        raise ValueError(f"several pictures and none with a plain extension: {', '.join(pictures)}")
    return ordered[0]


def no_data(name: str) -> str:
    """What a member is that an operating system or an archiver added; empty for all others."""
    if name[:1] != "." and "/." not in name and "__MACOSX" not in name and "PaxHeader" not in name:
        return "Windows' own files" if name[-2:].lower() in ("db", "ni") and _base(name).lower() in _SYSTEM else ""
    base = _base(name)
    if base.startswith("._") or "__MACOSX" in name:
        return "macOS's own files"
    if base.startswith("."):
        return "hidden files"
    return "headers of an archiver" if any(p.startswith("PaxHeader") for p in name.split("/")[:-1]) else ""


def about_the_set(key: str) -> bool:
    """Whether a file of this key describes a set: README, LICENSE, metadata, …"""
    return _base(key).lower() in _ABOUT


def _base(name: str) -> str:
    return name.rpartition("/")[2]
