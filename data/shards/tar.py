"""Reads tar archives from bytes: headers and where contents are. What a sample is stands in `data.shards.layout`.

Understood are ustar, pax and GNU archives, those of old tars, and archives written one after the other. Python's own
tarfile is six times slower here.
"""

import posixpath
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

BLOCK = 512
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _PAX_SOLARIS = b"L", b"K", b"x", b"g", b"X"
_EXTENSIONS = _LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _PAX_SOLARIS
_SPARSE = b"S"
_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "symlink",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "named pipe",
    b"D": "directory",
    b"M": "part of a file that another archive begins",
    b"S": "sparse file",
    b"V": "volume label",
}
_WITHOUT_CONTENTS = (b"1", b"2", b"3", b"4", b"5", b"6")
_MOST_NAME_BYTES = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}


class TarError(ValueError):
    """Bytes that are not a sound tar archive, with the offset of the damage."""


class Entry(NamedTuple):
    """A member of an archive, of any kind."""

    name: str
    """With `/` between its parts, without `./` at its beginning."""
    kind: str
    """`file`, `link` or `symlink`; else a word for people: directory, device, …"""
    target: str
    """The name that a link gives, as it is written."""
    first: int
    """Offset of its first header."""
    data: int
    """Offset of its contents."""
    size: int
    """Bytes of its contents."""

    @property
    def end(self) -> int:
        """Offset after its contents."""
        return self.data + padded(self.size)


class Seekable(Protocol):
    """As much of a file as is needed here."""

    def read(self, count: int, /) -> bytes:
        """The next `count` bytes; fewer only at the end."""
        ...

    def seek(self, offset: int, /) -> object:
        """Go to an offset from the start."""
        ...


def padded(size: int) -> int:
    """Bytes that `size` bytes of contents take in the archive."""
    return -(-size // BLOCK) * BLOCK


def leaves(name: str) -> bool:
    """Whether a member of this name would be unpacked outside of the archive's folder."""
    return name.startswith("/") or (".." in name and ".." in name.split("/"))


def target_of(link: Entry) -> str:
    """The name in the archive that a link means: a hard link's as it is, a symlink's from the link's folder."""
    target = link.target.replace("\\", "/")
    if link.kind == "symlink" and not target.startswith("/"):
        target = posixpath.join(posixpath.dirname(link.name), target)
    return posixpath.normpath(target)


def walk(
    file: Seekable,
    offset: int = 0,
    *,
    look: Callable[[Entry], None] | None = None,
    notes: list[str] | None = None,
) -> Iterator[Entry]:
    """All members from a header at `offset` on, in order.

    `look` is called where the file is at a member's contents and may read up to `size` bytes of them. TarError at
    damage, after all sound members before it. After the end marker the file is read to its end: an archive that follows
    is walked too, and `notes` gets a line for what follows.
    """
    header, first = _Header(), offset
    notes = [] if notes is None else notes
    file.seek(offset)
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            missing = f"the archive's end marker is missing at byte {offset}"
            raise TarError((offset == 0 and _what(block)) or missing)
        if not block.rstrip(b"\0"):
            following = _after_end(file, offset + BLOCK)
            if following is None:
                return
            block, offset = following
            try:
                header.feed(block, offset)
            except TarError:
                notes.append(f"what follows the archive's end, at byte {offset}, is no archive")
                return
            notes.append(f"another archive follows the end of the first, at byte {offset}: its members are taken too")
            header, first = _Header(), offset
        header.feed(block, offset)
        while header.sparse_goes_on:  # old GNU sparse files have further blocks of their map
            offset += BLOCK
            header.sparse_goes_on = file.read(BLOCK)[504:505] not in (b"", b"\0")
        offset += BLOCK
        if header.type in _EXTENSIONS:
            contents = file.read(padded(min(header.size, _MOST_NAME_BYTES)))
            header.extend(contents[: header.size], offset)
            offset += padded(header.size)
            file.seek(offset)
            continue
        entry = header.entry(first, offset)
        if look is not None:
            look(entry)
        offset += padded(entry.size)
        if entry.size:
            # The last byte is read, so that an archive cut within contents is noticed where it is cut.
            file.seek(offset - 1)
            if not file.read(1):
                raise TarError(f"the archive ends within a member at byte {entry.data - BLOCK}")
        yield entry
        header, first = _Header(), offset


def entries(buffer: bytes | memoryview) -> Iterator[Entry]:
    """The members in a stretch of an archive, or several after each other, that begins at a header.

    TarError where the bytes are no archive or end within a member.
    """
    view, offset, header, first = memoryview(buffer), 0, _Header(), 0
    while offset + BLOCK <= len(view):
        block = bytes(view[offset : offset + BLOCK])
        if not block.rstrip(b"\0"):
            offset += BLOCK
            first = offset
            continue
        header.feed(block, offset)
        while header.sparse_goes_on:
            offset += BLOCK
            header.sparse_goes_on = bytes(view[offset + 504 : offset + 505]) not in (b"", b"\0")
        data = offset + BLOCK
        if data + header.size > len(view):
            raise TarError(f"the archive ends within a member at byte {offset}")
        offset = data + padded(header.size)
        if header.type in _EXTENSIONS:
            header.extend(bytes(view[data : data + header.size]), data)
            continue
        yield header.entry(first, data)
        header, first = _Header(), offset
    if offset < len(view):
        raise TarError(f"the archive ends within a header at byte {offset}")


class _Header:
    """The header of one member, with what extension headers before it give."""

    def __init__(self) -> None:
        self.name, self.type, self.size, self.target = "", b"", 0, ""
        self.sparse_goes_on = False
        self._longer: dict[str, str] = {}
        """Name, target and size by extension headers, under pax's names; the presence of a sparse map."""

    def feed(self, block: bytes, offset: int) -> None:
        """Read the header at `offset`; TarError if it isn't one."""
        if block[148:156] != _checksum(block) and _number(block[148:156], offset) not in _sums(block):
            raise _no_header(block, offset)
        self.type, self.size = block[156:157], _number(block[124:136], offset)
        if self.size < 0:
            raise TarError(f"a negative size at byte {offset}")
        if self.type in _EXTENSIONS:
            return
        name = _text(block[0:100])
        prefix = _text(block[345:500]) if block[257:262] == b"ustar" and block[257:264] != b"ustar  " else ""
        self.name = self._longer.get("path") or (f"{prefix}/{name}" if prefix else name)
        if self.type in _WITHOUT_CONTENTS:
            self.size = 0
            self.target = self._longer.get("linkpath") or _text(block[157:257])
        elif "size" in self._longer:
            self.size = int(self._longer["size"])
        self.sparse_goes_on = self.type == _SPARSE and block[482:483] not in (b"", b"\0")

    def extend(self, contents: bytes, offset: int) -> None:
        """Keep a long name, link or size that precedes the member it belongs to."""
        if self.type == _LONG_NAME:
            self._longer["path"] = _text(contents)
        elif self.type == _LONG_LINK:
            self._longer["linkpath"] = _text(contents)
        elif self.type != _PAX_GLOBAL:
            self._longer |= _pax(contents)
            if not self._longer.get("size", "0").isdecimal():
                raise TarError(f"a size of {self._longer['size']!r} in the pax header before byte {offset}")

    def entry(self, first: int, data: int) -> Entry:
        """The member whose first header is at `first` and whose contents are at `data`."""
        name, kind = self.name, _KINDS.get(self.type) or f"member of type {self.type!r}"
        if "\\" in name:
            name = name.replace("\\", "/")
        while name[:2] == "./":
            name = name[2:].lstrip("/")
        if kind == "file" and name[-1:] == "/":  # as tars of the 1980s have directories
            kind = "directory"
        elif self._longer and kind == "file" and any(key.startswith("GNU.sparse.") for key in self._longer):
            name, kind = self._longer.get("GNU.sparse.name", name), "sparse file"
        return Entry(name, kind, self.target, first, data, self.size)


def _after_end(file: Seekable, offset: int) -> tuple[bytes, int] | None:
    """The first block that isn't zeros after an archive's end, and its offset; None where there is none."""
    while piece := file.read(128 * BLOCK):
        if piece.rstrip(b"\0"):
            start = (len(piece) - len(piece.lstrip(b"\0"))) // BLOCK * BLOCK
            file.seek(offset + start)
            block = file.read(BLOCK)
            return block.ljust(BLOCK, b"\0"), offset + start
        offset += len(piece)
    return None


def _checksum(block: bytes) -> bytes:
    """The checksum as nearly all tars write it."""
    return b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)


def _sums(block: bytes) -> tuple[int, int]:
    """The header's checksum; some old tars add up signed bytes."""
    total = sum(block) - sum(block[148:156]) + 256
    high = sum(byte > 127 for byte in block[:148] + block[156:])
    return total, total - 256 * high


def _no_header(block: bytes, offset: int) -> TarError:
    return TarError((offset == 0 and _what(block)) or f"no tar header at byte {offset}")


def _what(beginning: bytes) -> str:
    """What a file is that begins so and is no tar; empty where it isn't known."""
    for first, name in _COMPRESSED.items():
        if beginning.startswith(first):
            return f"it is compressed by {name}: unpack it, or name it .tar.gz if it is gzip's"
    if beginning.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file: run `git lfs pull`"
    return "it is a web page, not an archive: download it again" if beginning.lstrip()[:1] == b"<" else ""


def _number(field: bytes, offset: int) -> int:
    if field[:1] and field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value if field[0] == 0x80 else -1
    try:
        return int(field.lstrip(b" \0").split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise TarError(f"no tar header at byte {offset}") from None


def _text(field: bytes) -> str:
    """A name: in UTF-8, else in Latin-1, as older systems wrote it."""
    name = field.split(b"\0", 1)[0]
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _pax(contents: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n` of a pax header."""
    values = {}
    while contents:
        length, _, rest = contents.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(contents):
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        values[key.decode("utf-8", "replace")] = _text(value)
        contents = contents[int(length) :]
    return values
