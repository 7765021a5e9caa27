"""Reads tar archives from bytes: which samples a shard holds, where each begins, and what is in one.

A sample is a run of neighbouring members whose names agree up to the first dot of the file name (WebDataset's
convention). Python's own tarfile is six times slower here and allows names that leave the archive; here members with
absolute or `..` names are refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

BLOCK = 512
_FILES = (b"0", b"\0", b"7")
_EXTENSIONS = _LONG_NAME, _PAX, _PAX_GLOBAL = b"L", b"x", b"g"
_MOST_NAME_BYTES = 1 << 20


class TarError(ValueError):
    """Bytes that are not a sound tar archive, with the offset of the damage."""


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    data: int
    """Offset of its contents."""
    size: int
    """Bytes of its contents."""


def split_name(name: str) -> tuple[str, str]:
    """Key and extension (lower case, without the dot) of a member: `a/b.seg.png` → (`a/b`, `seg.png`)."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def padded(size: int) -> int:
    """Bytes that `size` bytes of contents take in the archive."""
    return -(-size // BLOCK) * BLOCK


class _Header:
    """The header of one member, with the name and size that extension headers before it give."""

    def __init__(self) -> None:
        self.long_name: str | None = None
        self.long_size: int | None = None

    def feed(self, block: bytes, offset: int) -> tuple[str, bytes, int]:
        """Name, type and size of the header at `offset`; TarError if it isn't one."""
        stored = _number(block[148:156], offset)
        if sum(block) - sum(block[148:156]) + 256 != stored:
            raise TarError(f"no tar header at byte {offset}")
        size = _number(block[124:136], offset)
        if size < 0:
            raise TarError(f"a negative size at byte {offset}")
        name = _text(block[0:100])
        prefix = _text(block[345:500]) if block[257:262] == b"ustar" and block[257:264] != b"ustar  " else ""
        size = size if self.long_size is None else self.long_size
        return self.long_name or (f"{prefix}/{name}" if prefix else name), block[156:157], size

    def extend(self, kind: bytes, contents: bytes) -> None:
        """Keep a long name or size that precedes the member it belongs to."""
        if kind == _LONG_NAME:
            self.long_name = _text(contents)
        elif kind == _PAX:
            values = _pax(contents)
            self.long_name = values.get("path", self.long_name)
            if "size" in values:
                self.long_size = int(values["size"])


def members(buffer: bytes | memoryview) -> Iterator[Member]:
    """The regular files in `buffer`, a stretch of an archive that starts at a header and may lack the closing blocks.

    TarError where the bytes are no archive or end within a member, and for a name that leaves the archive.
    """
    view, offset, header = memoryview(buffer), 0, _Header()
    while offset + BLOCK <= len(view):
        block = bytes(view[offset : offset + BLOCK])
        if not block.rstrip(b"\0"):
            return
        name, kind, size = header.feed(block, offset)
        data = offset + BLOCK
        if data + size > len(view):
            raise TarError(f"the archive ends within a member at byte {offset}")
        offset = data + padded(size)
        if kind in _EXTENSIONS:
            header.extend(kind, bytes(view[data : data + size]))
            continue
        if kind in _FILES:
            yield Member(_safe(name), data, size)
        header = _Header()
    if offset < len(view):
        raise TarError(f"the archive ends within a header at byte {offset}")


@dataclass
class Scan:
    """The samples of one archive, found without reading their contents."""

    starts: list[int] = field(default_factory=list)
    """Offsets of the samples' first headers, and the offset after the last sample."""
    keys: list[str] = field(default_factory=list)
    damage: str = ""
    """Where a damaged archive stops, and why; empty for a sound one."""
    size: int | None = None
    """Bytes of the file, where known."""


class Seekable(Protocol):
    """As much of a file as is needed here."""

    def read(self, count: int, /) -> bytes:
        """The next `count` bytes; fewer only at the end."""
        ...

    def seek(self, offset: int, /) -> object:
        """Go to an offset from the start."""
        ...


def _entries(
    file: Seekable, offset: int, skip: Callable[[int, int], bytes]
) -> Iterator[tuple[str | None, int, int, bytes]]:
    """Name (None: no regular file), first byte, end and skipped bytes of each member, to the closing zero block.

    `skip(offset, count)` moves over contents and returns them if it read them.
    """
    header, first, collected = _Header(), offset, list[bytes]()
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise TarError(f"the archive's end marker is missing at byte {offset}")
        if not block.rstrip(b"\0"):
            return
        name, kind, size = header.feed(block, offset)
        collected.append(block)
        offset += BLOCK
        if kind in _EXTENSIONS:
            contents = file.read(padded(min(size, _MOST_NAME_BYTES)))
            header.extend(kind, contents[:size])
            collected.append(contents)
            offset += len(contents)
            continue
        collected.append(skip(offset, padded(size)))
        offset += padded(size)
        yield (_safe(name) if kind in _FILES else None), first, offset, b"".join(collected)
        header, first, collected = _Header(), offset, []


def scan(file: Seekable) -> Scan:
    """Walk the headers of an archive, seeking over contents. At damage it stops and sets `Scan.damage`."""
    result = Scan()

    def skip(offset: int, count: int) -> bytes:
        # The last byte is read, so that an archive cut within contents is noticed where it is cut.
        if count:
            file.seek(offset + count - 1)
            if not file.read(1):
                raise TarError(f"the archive ends within a member at byte {offset - BLOCK}")
        return b""

    file.seek(0)
    try:
        for key, start, end, _ in _grouped(file, 0, skip):
            result.keys.append(key)
            result.starts[-1:] = [start, end]
    except TarError as error:
        result.damage = str(error)
    return result


def samples(file: Seekable, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Read an archive through, from a header at `offset` on: where each sample begins, and its bytes with headers.

    TarError at damage, after all sound samples before it.
    """

    def skip(at: int, count: int) -> bytes:
        contents = file.read(count)
        if len(contents) < count:
            raise TarError(f"the archive ends within a member at byte {at - BLOCK}")
        return contents

    for _, start, _, raw in _grouped(file, offset, skip):
        yield start, raw


def _grouped(file: Seekable, offset: int, skip: Callable[[int, int], bytes]) -> Iterator[tuple[str, int, int, bytes]]:
    """Key, first byte, end and read bytes of each sample; TarError at damage, after the sound samples before it.

    A directory or another unused member between two samples stays with the first.
    """
    key: str | None = None
    start = end = 0
    pieces: list[bytes] = []
    damage: TarError | None = None
    try:
        for name, first, last, raw in _entries(file, offset, skip):
            if name is not None:
                own = split_name(name)[0]
                if own != key:
                    if key is not None:
                        yield key, start, end, b"".join(pieces)
                    key, start, pieces = own, first, []
                end = last
            if key is not None:
                pieces.append(raw)
    except TarError as error:
        damage = error
    if key is not None:
        yield key, start, end, b"".join(pieces)
    if damage is not None:
        raise damage


def _safe(name: str) -> str:
    """The member's name; TarError for one that would leave the archive when unpacked."""
    name = name.removeprefix("./")
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise TarError(f"the member name {name!r} leaves the archive")
    return name


def _number(field: bytes, offset: int) -> int:
    if field[:1] and field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value if field[0] == 0x80 else -1
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise TarError(f"no tar header at byte {offset}") from None


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(contents: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n` of a pax header."""
    values = {}
    while contents:
        length, _, rest = contents.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(contents):
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        values[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        contents = contents[int(length) :]
    return values
