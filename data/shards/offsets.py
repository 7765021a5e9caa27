"""Where each sample begins in its shard: a small `.npz` beside the index, memory-mapped.

The members of a sample are neighbours in the archive, so one number is enough: the 512-byte block of its first header.
The next sample's block ends it. One `pread` then reads names, labels and contents together.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.shards.tar import BLOCK
from launch.files.atomic import writing

SUFFIX = ".offsets.npz"


class ShardOffsets:
    """`blocks` uint32 (N + S,): the samples' first blocks and each shard's end; `first` int64 (S + 1,) splits it."""

    def __init__(self, first: np.ndarray, blocks: np.ndarray):
        self.first, self.blocks = first, blocks

    @classmethod
    def from_starts(cls, starts: Sequence[Sequence[int]]) -> ShardOffsets:
        """From the byte offsets of each shard's samples and its end (`data.shards.tar.Scan.starts`)."""
        first = np.concatenate([[0], np.cumsum([len(of_shard) for of_shard in starts], dtype=np.int64)])
        blocks = np.empty(int(first[-1]), dtype=np.uint32)
        for i, of_shard in enumerate(starts):
            blocks[first[i] : first[i + 1]] = np.asarray(of_shard, dtype=np.int64) // BLOCK
        return cls(first.astype(np.int64), blocks)

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
        with writing(path) as file:
            np.savez(file, first=self.first, blocks=self.blocks)

    @classmethod
    def from_bytes(cls, contents: bytes) -> ShardOffsets:
        """From the contents of a file that came over a network. ValueError if they aren't one."""
        try:
            with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
                return cls(arrays["first"], arrays["blocks"])
        except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
            raise ValueError("not an offsets file") from error

    @classmethod
    def load(cls, path: Path) -> ShardOffsets:
        """Map the file into memory, so that pages are read on demand. ValueError or OSError for another file."""
        try:
            return cls(np.array(_mapped(path, "first")), _mapped(path, "blocks"))
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{path} is not an offsets file: delete it, it will be made again") from error


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
