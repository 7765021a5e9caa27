"""Where each sample begins in its shard: a small `.npz` beside the index, memory-mapped.

The members of a sample are neighbours in most archives, so one number is enough: the 512-byte block of its first
header. The next sample's block ends it. One `pread` then reads names, labels and contents together. Where members lie
apart, and for the targets of links, a list has the further stretches of a sample.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from data.shards.tar import BLOCK
from launch.files.atomic import writing

SUFFIX = ".offsets.npz"


Pieces = Mapping[int, Sequence[tuple[int, int]]]
"""Further stretches of an archive's samples: first and last byte offset of each, by the sample's position."""


class ShardOffsets:
    """`blocks` uint32 (N + S,): the samples' first blocks and each shard's end; `first` int64 (S + 1,) splits it."""

    def __init__(self, first: np.ndarray, blocks: np.ndarray, pieces: Mapping[int, Pieces] | None = None):
        self.first, self.blocks = first, blocks
        self._pieces = {shard: of for shard, of in (pieces or {}).items() if of}

    @classmethod
    def from_starts(cls, starts: Sequence[Sequence[int]], pieces: Sequence[Pieces] = ()) -> Self:
        """From the byte offsets of each shard's samples and its end, and their further pieces by shard, if any."""
        first = np.concatenate([[0], np.cumsum([len(of_shard) for of_shard in starts], dtype=np.int64)])
        blocks = np.empty(int(first[-1]), dtype=np.uint32)
        for i, of_shard in enumerate(starts):
            blocks[first[i] : first[i + 1]] = np.asarray(of_shard, dtype=np.int64) // BLOCK
        return cls(first.astype(np.int64), blocks, dict(enumerate(pieces)))

    def of_shards(self, shards: Sequence[int]) -> Self:
        """Of some of the shards, in this order."""
        return self.from_starts([self.of_shard(shard) for shard in shards], [self.pieces(shard) for shard in shards])

    def pieces(self, shard: int) -> Pieces:
        """The further pieces of a shard's samples, of those that have any."""
        return self._pieces.get(shard, {})

    def counts(self) -> list[int]:
        """Samples in each shard."""
        return (np.diff(self.first) - 1).tolist()

    def extent(self, shard: int, position: int) -> tuple[int, int]:
        """Byte offsets where a sample begins and ends."""
        at = int(self.first[shard]) + position
        return int(self.blocks[at]) * BLOCK, int(self.blocks[at + 1]) * BLOCK

    def of_shard(self, shard: int, start: int = 0, stop: int | None = None) -> list[int]:
        """Byte offsets where a shard's samples `start` to `stop` - 1 (default: all) begin, and where the last ends."""
        base, last = self.first[shard], self.first[shard + 1] if stop is None else self.first[shard] + stop + 1
        return (self.blocks[base + start : last].astype(np.int64) * BLOCK).tolist()

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        arrays = {"first": self.first, "blocks": self.blocks}
        rows = [
            (shard, position, *piece)
            for shard, of in self._pieces.items()
            for position, pieces in of.items()
            for piece in pieces
        ]
        if rows:
            arrays["pieces"] = np.array(rows, dtype=np.int64)
        with writing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # it takes allow_pickle by name, too

    @classmethod
    def from_bytes(cls, contents: bytes) -> Self:
        """From the contents of a file that came over a network. ValueError if they aren't one."""
        try:
            with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
                return cls(arrays["first"], arrays["blocks"], _by_sample(arrays.get("pieces", [])))
        except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
            raise ValueError("not an offsets file") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map the file into memory, so that pages are read on demand. ValueError or OSError for another file."""
        try:
            with zipfile.ZipFile(path) as archive:
                in_pieces = "pieces.npy" in archive.namelist()
            rows = _mapped(path, "pieces") if in_pieces else np.empty((0, 4))
            return cls(np.array(_mapped(path, "first")), _mapped(path, "blocks"), _by_sample(rows))
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{path} is not an offsets file: delete it, it will be made again") from error


def _by_sample(rows: Any) -> dict[int, dict[int, list[tuple[int, int]]]]:
    """Pieces by shard and position, from rows of shard, position, first and last byte offset."""
    pieces: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for shard, position, start, end in np.asarray(rows, dtype=np.int64).tolist():
        pieces.setdefault(shard, {}).setdefault(position, []).append((start, end))
    return pieces


def _mapped(path: Path, name: str) -> np.ndarray:
    """An array of an uncompressed `.npz`, memory-mapped in place."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{path} is compressed: delete it, it will be made again")
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        header = file.tell()
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        local = raw.read(30)
    start = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if not shape or not shape[0]:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=start + header, shape=shape)
