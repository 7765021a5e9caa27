"""One sample in its shard: key, files, label and caption, whatever kind of data it holds."""

from collections.abc import Mapping
from typing import NamedTuple

from data.shards.tar import members, split_name
from data.shards.text import decode_text


class DamagedSampleError(ValueError):
    """A sample that can't be used, and why."""


class Sample(NamedTuple):
    """One sample as stored in its shard."""

    key: str
    files: Mapping[str, memoryview]
    """Contents by extension, lower case."""


def read_sample(buffer: bytes | memoryview) -> Sample:
    """The sample in a stretch of an archive; DamagedSampleError if the bytes aren't a sound one."""
    view = memoryview(buffer)
    key, files = "", {}
    try:
        for member in members(view):
            key, extension = split_name(member.name)
            files[extension] = view[member.data : member.data + member.size]
    except ValueError as error:
        raise DamagedSampleError(f"not a sound tar member: {error}") from error
    if not files:
        raise DamagedSampleError("no member where the index says there is a sample")
    return Sample(key, files)


def label(sample: Sample, classes: int) -> int:
    """The class number in the sample's `cls`, -1 without one; DamagedSampleError unless it is in [0, classes)."""
    text = sample.files.get("cls")
    if text is None:
        return -1
    try:
        number = int(bytes(text))
    except ValueError:
        raise DamagedSampleError(f"its label {bytes(text[:20])!r} is not a number") from None
    if number < 0 or (classes and number >= classes):
        raise DamagedSampleError(f"its label {number} is not one of the {classes} classes")
    return number


def caption(sample: Sample) -> str:
    """The text in the sample's `txt`, in whatever encoding, on one line; empty without one."""
    return " ".join(decode_text(bytes(sample.files.get("txt", b"")))[0].split())
