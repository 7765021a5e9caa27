"""Finds the samples of an archive: runs of neighbouring members of one key, from headers and a few first bytes.

Members of one key that are not side by side, and the targets of links, are noted as further pieces of the sample.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from data.shards.layout import NO_PICTURE, Layout, is_picture, no_data, unclear
from data.shards.signature import DECODED, LENGTH, picture_format
from data.shards.tally import Tally
from data.shards.tar import Entry, Seekable, TarError, leaves, target_of, walk

Range = tuple[int, int]
"""Byte offsets where something begins and ends."""
LABEL_BYTES = 256
"""A longer `cls` member is no label."""
_MOST_HOPS = 40


@dataclass
class Samples:
    """The samples of one archive under a layout."""

    starts: list[int] = field(default_factory=list)
    """Offsets of their first headers, and the offset after the last sample."""
    keys: list[str] = field(default_factory=list)
    forms: list[tuple[str, ...]] = field(default_factory=list)
    """Extensions of the members of each."""
    pieces: dict[int, list[Range]] = field(default_factory=dict)
    """By position: where further members of a sample, or the targets of its links, are."""


@dataclass
class Scan:
    """The runs of members of one archive."""

    keys: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    forms: list[tuple[str, ...]] = field(default_factory=list)
    """Extensions of the members of each run; see `NO_PICTURE`."""
    pieces: dict[int, list[Range]] = field(default_factory=dict)
    """By run: where its further pieces are."""
    apart: list[str] = field(default_factory=list)
    """Keys whose members are not side by side."""
    formats: dict[str, str] = field(default_factory=dict)
    """By extension that is no usual one of pictures: the format that its members' first bytes have."""
    labels: Counter[bytes] = field(default_factory=Counter)
    """How often `cls` members of the same contents occur."""
    tally: Tally = field(default_factory=Tally)
    """Members that were passed over."""
    told: set[int] = field(default_factory=set)
    """Runs whose loss is in the tally."""
    notes: list[str] = field(default_factory=list)
    damage: str = ""
    """Where a damaged archive stops, and why; empty for a sound one."""
    size: int | None = None
    """Bytes of the file, where known."""

    def samples(self, layout: Layout) -> Samples:
        """The runs that are samples."""
        result, last = Samples(), None
        for run, form in enumerate(self.forms):
            if layout.is_sample(form):
                if run in self.pieces:
                    result.pieces[len(result.keys)] = self.pieces[run]
                result.keys.append(self.keys[run])
                result.forms.append(form)
                result.starts.append(self.starts[run])
                last = self.ends[run]
        if last is not None:
            result.starts.append(last)
        return result


def scan(file: Seekable, layout: Layout) -> Scan:
    """Walk the headers of an archive, seeking over contents. At damage it stops and sets `Scan.damage`.

    With `layout.pieces` links are followed and members of one key that lie apart are put together.
    """
    walking = _Walking(file, layout)
    result = walking.result
    try:
        for key, start, end, form in walking.runs(0):
            result.keys.append(key)
            result.starts.append(start)
            result.ends.append(end)
            result.forms.append(form)
    except TarError as error:
        result.damage = str(error)
    if walking.links and layout.pieces:
        _follow(result, walking.links, file, layout)
    if layout.pieces and len(set(result.keys)) < len(result.keys):
        _join(result)
    return result


def samples(file: Seekable, offset: int, layout: Layout) -> Iterator[tuple[int, bytes]]:
    """Read an archive through, from a header at `offset` on: where each sample begins, and its bytes with headers.

    TarError at damage, after all sound samples before it. Samples in pieces are not put together.
    """
    recording = _Recording(file, offset)
    for _, start, end, form in _Walking(recording, layout).runs(offset):
        raw = recording.cut(start, end)
        if layout.is_sample(form):
            yield start, raw


class _Walking:
    """One walk through an archive, and what it has met."""

    def __init__(self, file: Seekable, layout: Layout):
        self.result, self.links = Scan(), list[Entry]()
        self._file, self._layout, self._mark = file, layout, ""
        self._forms: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._split = ("", "")
        """Key and extension of the member that was looked at last."""

    def runs(self, offset: int) -> Iterator[tuple[str, int, int, tuple[str, ...]]]:
        """Key, first byte, end and extensions of each run; TarError at damage, after the sound runs before it."""
        key: str | None = None
        start, end, form = 0, 0, list[str]()
        damage: TarError | None = None
        try:
            for entry in self._members(offset):
                own, extension = self._split
                if own != key:
                    if key is not None:
                        yield key, start, end, self._shared(form)
                    key, start, form = own, entry.first, []
                form.append(self._mark + extension)
                end = entry.end
        except TarError as error:
            damage = error
        if key is not None:
            yield key, start, end, self._shared(form)
        if damage is not None:
            raise damage

    def _shared(self, form: list[str]) -> tuple[str, ...]:
        """The form; equal ones are one object."""
        made = tuple(form)
        return self._forms.setdefault(made, made)

    def _members(self, offset: int) -> Iterator[Entry]:
        """The members that can belong to samples; the tally gets the others."""
        tally = self.result.tally
        for entry in walk(self._file, offset, look=self._look, notes=self.result.notes):
            if entry.kind == "file" and self._layout.former:
                yield entry
            elif self._layout.former:
                continue
            elif entry.kind not in ("file", "link", "symlink"):
                if is_picture(self._split[1]):
                    tally.left_out(f"a {entry.kind}", entry.name)
                elif entry.kind not in ("directory", "volume label"):
                    tally.ignored(entry.kind, entry.name)
            elif what := no_data(entry.name):
                tally.ignored(what, entry.name)
            elif leaves(entry.name):
                tally.left_out("a name that leaves the archive", entry.name)
            else:
                if entry.kind == "file":
                    yield entry
                elif self._layout.pieces:
                    self.links.append(entry)
                    yield entry

    def _look(self, entry: Entry) -> None:
        """Split a member's name; read its label, or its format where the name doesn't tell whether it is a picture."""
        self._split, self._mark = self._layout.split(entry.name), ""
        extension = self._split[1]
        if entry.kind != "file" or self._layout.former:
            return
        if extension == "cls":
            self.result.labels[self._file.read(min(entry.size, LABEL_BYTES))] += 1
        elif unclear(extension) and not no_data(entry.name):
            found = picture_format(self._file.read(min(entry.size, LENGTH)))
            self._mark = "" if found in DECODED else NO_PICTURE
            if found is not None:
                self.result.formats[self._mark + extension] = found


def _follow(result: Scan, links: list[Entry], file: Seekable, layout: Layout) -> None:
    """Note where the targets of links are; a link to nothing is no member."""
    places: dict[str, Entry] = {}
    with suppress(TarError):
        places.update({entry.name: entry for entry in walk(file)})
    for link in links:
        run = bisect_right(result.starts, link.first) - 1
        hops = _hops(link, places)
        if hops is not None:
            inside = range(result.starts[run], result.ends[run])
            result.pieces.setdefault(run, []).extend((e.first, e.end) for e in hops if e.first not in inside)
            continue
        extension = layout.split(link.name)[1]
        form = list(result.forms[run])
        form[form.index(extension)] = NO_PICTURE
        result.forms[run] = tuple(form)
        if is_picture(extension):
            result.tally.left_out("a link to nothing in the archive", link.name)
            result.told.add(run)
        else:
            result.tally.ignored("links to nothing in the archive", link.name)


def _hops(link: Entry, places: Mapping[str, Entry]) -> list[Entry] | None:
    """The members on the way from a link to its file, the file last; None where it leads nowhere."""
    hops: list[Entry] = []
    while link.kind in ("link", "symlink") and len(hops) < _MOST_HOPS:
        target = places.get(target_of(link))
        if target is None or target is link:
            return None
        hops.append(target)
        link = target
    return hops if link.kind == "file" else None


def _join(result: Scan) -> None:
    """Make one run of those that have one key and no extension in common: their sample is in pieces."""
    first_of: dict[str, int] = {}
    kept: list[int] = []
    for run, key in enumerate(result.keys):
        first = first_of.get(key)
        if first is None or set(result.forms[first]) & set(result.forms[run]):
            first_of[key] = run
            kept.append(run)
            continue
        result.forms[first] += result.forms[run]
        further = [(result.starts[run], result.ends[run]), *result.pieces.pop(run, [])]
        result.pieces.setdefault(first, []).extend(further)
        result.apart.append(key)
    new = {run: number for number, run in enumerate(kept)}
    for name in ("keys", "starts", "ends", "forms"):
        column = getattr(result, name)
        setattr(result, name, [column[run] for run in kept])
    result.pieces = {new[run]: pieces for run, pieces in result.pieces.items()}
    result.told = {new[run] for run in result.told if run in new}


class _Recording:
    """A file that keeps what was read of it, forward only, so that a walk's bytes can be had afterwards."""

    def __init__(self, file: Seekable, offset: int):
        self._file, self._kept, self._first, self._at = file, bytearray(), offset, offset

    def read(self, count: int) -> bytes:
        missing = self._at + count - self._first - len(self._kept)
        if missing > 0:
            self._kept += self._file.read(missing)
        piece = bytes(self._kept[self._at - self._first : self._at - self._first + count])
        self._at += len(piece)
        return piece

    def seek(self, offset: int) -> None:
        if offset > self._at:
            self.read(offset - self._at)
        self._at = offset

    def cut(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end` - 1; those before `end` are forgotten."""
        piece = bytes(self._kept[start - self._first : end - self._first])
        del self._kept[: end - self._first]
        self._first = end
        return piece
