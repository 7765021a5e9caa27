"""Videos that are kept as frames: folders of numbered pictures, and BAIR's records.

Shapes: T frames, H W pixels.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data.packing.sources.base import Raw, Source, existing
from data.packing.sources.listing import Listing
from data.packing.sources.split_names import SplitNames
from data.pictures.config import FrameConfig
from data.pictures.decode import decode_picture
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError

_LARGEST = 100_000_000
"""Pixels of a frame, at most."""
_VIEW = "image_aux1"
"""The camera of BAIR's two that is used for prediction."""


class FramesSource(Source):
    """Each folder that holds pictures is a video: its frames in the order of the numbers in their names.

    A top folder that is named like a split is one. There are no classes.
    """

    media = "videos"
    about = "folders of frames, [split/]**/video/NUMBER.png"
    options = ("splits",)

    def __init__(self, root: str, splits: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.root = existing(root, "a folder of frames")
        if not self.root.is_dir():
            raise UserError(f"source={root} is a file, not a folder of frames: name the folder")
        names, listing = SplitNames(splits), Listing(self.root, self.tally)
        of: dict[str, list[tuple[str, int]]] = {}
        for path, size in listing.samples:
            of.setdefault(path.rpartition("/")[0], []).append((path, size))
        split_of = {folder: names.whole or names.of_folder(folder.partition("/")[0]) for folder in of}
        some = any(split_of.values())
        self.frames: list[list[str]] = []
        sizes, chosen = [], []
        for folder, files in sorted(of.items(), key=lambda item: in_order(item[0])):
            split = split_of[folder] if some else "train"
            if split is None:
                self.tally.left_out("beside the folders of splits, in none of them", folder, of="videos")
            elif split:
                self.paths.append(folder or ".")
                self.frames.append(sorted((path for path, _ in files), key=in_order))
                sizes.append(sum(size for _, size in files))
                chosen.append(split)
            else:
                self.tally.ignored("left out by the setting splits", folder)
        self.sizes, self.labels = np.array(sizes, dtype=np.int64), np.full(len(chosen), -1, dtype=np.int64)
        self.splits = {name: np.flatnonzero(np.array(chosen) == name) for name in dict.fromkeys(chosen)}

    def overlaps(self, out: Path) -> bool:
        """See Source."""
        return self.root.resolve() in (out, *out.parents)

    def names(self) -> list[str]:
        """The folders with their numbers of frames."""
        return [f"{path} {len(frames)}" for path, frames in zip(self.paths, self.frames, strict=True)]

    def read(self, number: int) -> Raw:
        """The frames; DamagedSampleError where one can't be decoded, or has another size than the first."""
        found: list[np.ndarray] = []
        for path in self.frames[number]:
            try:
                frame_HWC = decode_picture((self.root / path).read_bytes(), FrameConfig(), max_pixels=_LARGEST)
            except DamagedSampleError as error:
                raise DamagedSampleError(f"{Path(path).name}: {error}") from error
            if found and frame_HWC.shape != found[0].shape:
                raise DamagedSampleError("its frames differ in size")
            found.append(frame_HWC)
        return Raw(self.paths[number], array=np.stack(found))


def in_order(path: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them: 2.png before 10.png."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", path)]


class BairSource(Source):
    """BAIR's robot pushing (`softmotion30_44k`): `{train,test}/*.tfrecords`, each record 30 frames of 64×64 pixels.

    TensorFlow isn't needed. Of the two cameras it is the one that prediction is measured on (image_aux1).
    """

    media = "videos"
    about = "BAIR robot pushing: {train,test}/*.tfrecords"

    def __init__(self, root: str) -> None:
        super().__init__()
        top = existing(root, "BAIR's folder")
        self.root = top / "softmotion30_44k" if (top / "softmotion30_44k").is_dir() else top
        self.records: list[tuple[Path, int, int]] = []
        for split in ("train", "val", "test"):
            first = len(self.records)
            for file in sorted((self.root / split).glob("*.tfrecords"), key=lambda path: in_order(path.name)):
                self.records += [(file, *place) for place in _places(file)]
            if len(self.records) > first:
                self.splits[split] = np.arange(first, len(self.records))
        if not self.records:
            raise UserError(f"source={root} has no train/*.tfrecords: name the folder softmotion30_44k")
        self.labels = np.full(len(self.records), -1, dtype=np.int64)

    def overlaps(self, out: Path) -> bool:
        """See Source."""
        return self.root.resolve() in (out, *out.parents)

    def names(self) -> list[str]:
        """Files and places of the records."""
        return [f"{file.name} {start} {size}" for file, start, size in self.records]

    def read(self, number: int) -> Raw:
        """The frames of a record."""
        file, start, size = self.records[number]
        with file.open("rb") as opened:
            opened.seek(start)
            features = dict(_features(memoryview(opened.read(size))))
        found: list[np.ndarray] = []
        while (pixels := features.get(f"{len(found)}/{_VIEW}/encoded")) is not None:
            side = round((len(pixels) / 3) ** 0.5)
            if 3 * side * side != len(pixels):
                raise DamagedSampleError(f"frame {len(found)} has {len(pixels)} bytes, no square of RGB")
            found.append(np.frombuffer(pixels, np.uint8).reshape(side, side, 3))
        if not found:
            raise DamagedSampleError(f"the record has no frames called 0/{_VIEW}/encoded, …")
        return Raw(f"{file.parent.name}/{file.stem}/{number:06d}", array=np.stack(found))


def _places(file: Path) -> list[tuple[int, int]]:
    """Start and size of each record: its length in eight bytes, a check sum in four, the record, and another four."""
    found, at, end = [], 0, file.stat().st_size
    with file.open("rb") as opened:
        while at + 12 <= end:
            opened.seek(at)
            size = int.from_bytes(opened.read(8), "little")
            if at + 16 + size > end:
                raise UserError(f"source: {file} is truncated, or no file of records: fetch it again or move it away")
            found.append((at + 12, size))
            at += 16 + size
    return found


def _features(record: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Name and bytes of each feature of a `tf.train.Example` that holds bytes: features 1, entry 1, key 1, value 2."""
    for features in _fields(record, 1):
        for entry in _fields(features, 1):
            name = next(_fields(entry, 1), memoryview(b""))
            for feature in _fields(entry, 2):
                for values in _fields(feature, 1):
                    yield from ((bytes(name).decode(), value) for value in _fields(values, 1))


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of a protocol buffer's fields of one number, which have a length. DamagedSampleError if it isn't."""
    at = 0
    try:
        while at < len(message):
            tag, at = _number(message, at)
            kind = tag & 7
            if kind == 2:
                size, at = _number(message, at)
                if at + size > len(message):
                    raise IndexError
                if tag >> 3 == wanted:
                    yield message[at : at + size]
                at += size
            elif kind == 0:
                _, at = _number(message, at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                raise IndexError
    except IndexError:
        raise DamagedSampleError("the record is no example of TensorFlow") from None


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next one begins."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
