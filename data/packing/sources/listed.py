"""Sets of files that lists or names describe: what sources of sounds and of videos have in common."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from data.packing.sources.captions import Texts
from data.packing.sources.folders import FileSource
from data.packing.sources.listing import Listing
from data.shards.text import decode_text
from launch.command.cli import UserError


class ListedSource(FileSource):
    """Files of one kind below a root, each with the class and text that a subclass finds for it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listing = Listing(root, self.tally, self.media)

    def take(self, files: Iterable[tuple[str, str, str]], texts: Mapping[str, str]) -> None:
        """Set the fields from (path, class or "", split) of every file, and the texts by path."""
        files, sizes = list(files), dict(self.listing.samples)
        self.classes = sorted({name for _, name, _ in files if name}, key=_in_order)
        number = {name: i for i, name in enumerate(self.classes)}
        self.fill([(path, sizes[path], number.get(name, -1), split) for path, name, split in files])
        self.captions = Texts({path: text for path, text in texts.items() if path in sizes})
        self.captioned = len(self.captions)


def text_of(file: Path) -> str:
    """A file's text, in whatever encoding; UserError where it can't be read."""
    try:
        return decode_text(file.read_bytes())[0]
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}): check its rights") from error


def _in_order(name: str) -> tuple[int, str]:
    """Numbers in their order, before words."""
    return (int(name) if name.isdecimal() else 1 << 62), name
