"""One sample in its shard: key, files, label and caption, whatever kind of data it holds."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data.shards.layout import GENERAL, Layout, by_preference, is_picture, no_data, picture_among
from data.shards.tar import Entry, entries, leaves, target_of
from data.shards.text import decode_text

_log = logging.getLogger(__name__)
_warned: set[str] = set()


class DamagedSampleError(ValueError):
    """A sample that can't be used, and why."""


class Sample(NamedTuple):
    """One sample as stored in its shard."""

    key: str
    files: Mapping[str, memoryview]
    """Contents by extension, lower case."""
    layout: Layout = GENERAL
    """The rule of its index."""


def read_sample(buffer: bytes | memoryview, layout: Layout = GENERAL) -> Sample:
    """The sample in a stretch of an archive and its further pieces, if there are any, one after the other.

    DamagedSampleError if the bytes aren't a sound one. The first member's key is the sample's; what lies in between of
    other keys is passed over.
    """
    view = memoryview(buffer)
    key: str | None = None
    files: dict[str, memoryview] = {}
    links: dict[str, Entry] = {}
    found: dict[str, Entry] = {}
    try:
        for entry in entries(view):
            if entry.kind not in ("file", "link", "symlink"):
                continue
            found[entry.name] = entry
            if not layout.former and (no_data(entry.name) or leaves(entry.name)):
                continue
            own, extension = layout.split(entry.name)
            if key is None or layout.former:
                key = own
            if own == key and entry.kind == "file":
                files[extension] = view[entry.data : entry.data + entry.size]
            elif own == key and not layout.former:
                links[extension] = entry
    except ValueError as error:
        raise DamagedSampleError(f"not a sound tar member: {error}") from error
    for extension, link in links.items():
        target = _target(link, found)
        if target is not None:
            files[extension] = view[target.data : target.data + target.size]
    if key is None or not files:
        raise DamagedSampleError("no member where the index says there is a sample")
    return Sample(key, files, layout)


def _target(link: Entry, found: Mapping[str, Entry]) -> Entry | None:
    """The file that a link leads to, among the members that were read."""
    for _ in found:
        target = found.get(target_of(link))
        if target is None or target.kind == "file":
            return target
        link = target
    return None


def picture_member(sample: Sample) -> str:
    """The extension of the sample's picture; DamagedSampleError without one, or where several are equally good."""
    try:
        chosen = picture_among(sample.files, sample.layout)
    except ValueError as error:
        raise DamagedSampleError(f"{error}: index the tars anew and name the picture's, or repack them") from error
    if chosen is None:
        raise DamagedSampleError(f"no picture among {', '.join(sample.files)}")
    if len(sample.files) > 1 and (among := unsettled(sample)):
        _warn(f"samples hold several pictures, and their index names none of them ({among}): "
              "index the tars anew with `python -m data.index`")  # fmt: skip
    return chosen


def member_of(sample: Sample, names: Sequence[str], what: str) -> str:
    """The extension of the sample's sound or video (`what`), by its index's rule or in the order of `names`.

    Plain extensions go before compound ones: `flac` before `speaker.flac`. DamagedSampleError without one.
    """
    listed = sample.layout.picture or by_preference(sample.files, names)
    found = next((name for name in listed if name in sample.files and name.rpartition(".")[2] in names), None)
    found = found or next((name for name in sample.layout.picture if name in sample.files), None)
    if found is None:
        raise DamagedSampleError(f"no {what} among {', '.join(sample.files)}")
    return found


def unsettled(sample: Sample) -> str:
    """Which pictures a sample has and which is read, where its index leaves that open; else nothing.

    It does where there are several plain ones and, if it was made by an earlier version, where the first isn't the one
    that is read now.
    """
    pictures = [] if sample.layout.picture else [extension for extension in sample.files if is_picture(extension)]
    if len(pictures) < 2:
        return ""
    usual = by_preference(pictures)
    plain = sum("." not in extension for extension in pictures)
    read = pictures[0] if sample.layout.former else usual[0]
    if plain == 1 and read == usual[0]:
        return ""
    shown = ", ".join(pictures[:4]) + (", …" if len(pictures) > 4 else "")
    return f"{shown}; read is {read}"


def label(sample: Sample, classes: int, names: Sequence[str] = ()) -> int:
    """The class number in the sample's `cls`, -1 without one; of a layout with names that of the name there.

    DamagedSampleError where it is none of the `classes` (0: any number). Without classes a word is no label, which is
    said once.
    """
    contents = sample.files.get("cls")
    if contents is None:
        return -1
    text = label_text(contents)
    if sample.layout.labels == "names":
        if text not in names:
            raise DamagedSampleError(f"its label {text[:20]!r} is none of the {len(names)} classes")
        return list(names).index(text)
    if not is_number(text):
        if classes or not text:
            raise DamagedSampleError(f"its label {text[:20]!r} is not a number")
        _warn(f"labels such as {text[:20]!r} are words and the index names no classes, so there are no labels: "
              "index the tars anew with `python -m data.index`, which makes classes of them")  # fmt: skip
        return -1
    if int(text) < 0 or (classes and int(text) >= classes):
        raise DamagedSampleError(f"its label {int(text)} is not one of the {classes} classes")
    return int(text)


def label_text(contents: bytes | memoryview) -> str:
    """The text of a `cls` member."""
    return decode_text(bytes(contents))[0].strip()


def is_number(text: str) -> bool:
    """Whether a label is a number."""
    return text[text[:1] in ("-", "+") :].isdecimal() and text.isascii()


def _warn(line: str) -> None:
    if line not in _warned:
        _warned.add(line)
        _log.warning("%s", line)


def caption(sample: Sample) -> str:
    """The text in the sample's `txt`, in whatever encoding, on one line; empty without one."""
    return " ".join(decode_text(bytes(sample.files.get("txt", b"")))[0].split())
