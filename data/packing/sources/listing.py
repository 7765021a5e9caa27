"""Which files lie below a folder: what is a sample, what is a caption, and what was passed over.

A file with a usual extension of its kind of sample is one until it is read, when its first bytes decide. Of all others
the first bytes are looked at here.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from data.media import KINDS
from data.shards.signature import DECODED, LENGTH, SOUNDS, VIDEOS, picture_format, sound_format, video_format
from data.shards.tally import Tally, extension_in
from launch.command.cli import UserError

EXTENSIONS = {
    kind: frozenset(f".{name}" for name in media.members) - {".img"} for kind, media in KINDS.items() if media.convert
}
"""Usual extensions of files, by kind of sample."""
_FORMATS = {
    "pictures": (picture_format, DECODED, "jpg or png"),
    "sounds": (sound_format, SOUNDS, "flac or wav"),
    "videos": (video_format, VIDEOS, "mp4 or webm"),
}
"""By kind of sample: what tells a format, the formats that are read, and those to convert others to."""
SIDECARS = (".txt", ".caption", ".json")
"""Extensions of captions beside pictures, the first one first."""
LISTS = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Lists of captions, as the Hub's image folders have them."""

_SYSTEM = frozenset(
    ("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
     "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__")
)  # fmt: skip
_UNFINISHED = frozenset((".part", ".partial", ".crdownload", ".download", ".tmp", ".aria2"))
_RAW = frozenset((".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf", ".raw", ".nrw"))
"""Cameras' raw files: most begin as TIFF does, but hold only a small preview of that kind."""
_DRAWN = frozenset((".svg", ".svgz", ".eps", ".ai"))


def one(media: str) -> str:
    """What one sample of a kind is called: of pictures, a picture."""
    return media.removesuffix("s")


def is_system(name: str) -> bool:
    """Whether a file or folder belongs to the operating system or a tool, not to the data; hidden ones do."""
    return name.startswith(".") or name.lower() in _SYSTEM


class Listing:
    """All files below `top`, by what they are; paths are relative to it, with `/`."""

    def __init__(self, top: Path, tally: Tally, media: str = "pictures"):
        self.top, self.tally, self.media = top, tally, media
        self.samples: list[tuple[str, int]] = []
        """Path and bytes of each sample, in sorted order."""
        self.texts: dict[str, tuple[str, int]] = {}
        """Path and bytes of each caption file, by its path without the extension."""
        self.lists: list[str] = []
        """Lists of captions."""
        self.folders: list[str] = []
        """Folders below `top`."""
        for path, entry in walk(top, self.tally, self.folders):
            self._file(path, entry)

    def _file(self, path: str, entry: os.DirEntry[str]) -> None:
        extension = extension_in(path)
        regular = is_true(entry.is_file)
        if not regular and not entry.is_symlink():
            self.tally.left_out("no regular file (a pipe, a socket or a device)", path, of=self.media)
        elif extension in EXTENSIONS[self.media]:
            self.samples.append((path, _size(entry)))  # a link to nothing is left out, and listed, when it is read
        elif not regular:
            self.tally.ignored("a link to nothing", path)
        elif entry.name.lower() in LISTS:
            self.lists.append(path)
        elif extension in SIDECARS:
            self._text(path[: -len(extension)], path, extension, _size(entry))
        else:
            self._other(path, extension, entry)

    def _text(self, stem: str, path: str, extension: str, size: int) -> None:
        known = self.texts.get(stem)
        if known is None or SIDECARS.index(extension) < SIDECARS.index(extension_in(known[0])):
            self.texts[stem], known = (path, size), known
            path = known[0] if known else ""
        if path:
            self.tally.ignored(f"beside another caption file of the same {one(self.media)}", path)

    def _other(self, path: str, extension: str, entry: os.DirEntry[str]) -> None:
        """A file whose extension says nothing, or something else: its first bytes decide."""
        if extension in _UNFINISHED:
            self.tally.left_out("an unfinished download", path, of=self.media)
            return
        format_of, read, better = _FORMATS[self.media]
        unread = _RAW | _DRAWN if self.media == "pictures" else frozenset()
        try:
            with (self.top / path).open("rb") as file:
                found = format_of(file.read(LENGTH))
        except OSError as error:
            self.tally.left_out(f"can't be read: {error.strerror}", path, of=self.media)
            return
        if found in read and extension not in unread - _DRAWN:
            self.samples.append((path, _size(entry)))
        elif found or extension in unread:
            kind = found if found and extension not in unread - _DRAWN else extension[1:]
            self.tally.left_out(f"{kind} isn't supported: convert it to {better}", path, of=self.media)
        else:
            others = ("sounds", "videos") if self.media == "pictures" else ()
            other = next((kind for kind in others if extension in EXTENSIONS[kind]), "")
            why = (
                f"a {one(other)}: --media {other} packs those" if other else f"no {one(self.media)} by its first bytes"
            )
            self.tally.ignored(why, path)


def walk(
    top: Path, tally: Tally | None = None, folders: list[str] | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Path relative to `top` and entry of every file below it, in sorted order; what is passed over goes into `tally`.

    UserError for a folder that can't be read.
    """
    yield from _walk(top, "", [_identity(top)], Tally() if tally is None else tally, [] if folders is None else folders)


def _walk(
    top: Path, below: str, above: list[tuple[int, int]], tally: Tally, folders: list[str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(top / below) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"source: the folder {top / below} can't be read ({error.strerror}): change its rights or move it away"
        ) from error
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if is_system(entry.name):
            tally.ignored("system or hidden files", name)
        elif is_true(entry.is_dir):
            identity = _identity(Path(entry.path))
            if identity in above:
                tally.ignored("a link to a folder that it lies in", name)
                continue
            folders.append(name)
            yield from _walk(top, name, [*above, identity], tally, folders)
        else:
            yield name, entry


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise UserError(f"source: the folder {folder} can't be read ({error.strerror}): check the path") from error
    return status.st_dev, status.st_ino


def is_true(question: Callable[[], bool]) -> bool:
    """The answer of `is_dir` or `is_file`; false for a link in a circle."""
    try:
        return question()
    except OSError:
        return False


def _size(entry: os.DirEntry[str]) -> int:
    """Bytes of a file; 0 of one that is gone, which is found when it is read."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0
