"""The numbered shards of one or several indexes, and how the bytes of a sample are read."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from data.order.sample_order import Order
from data.shards.compressed import open_plain
from data.shards.index import ShardIndex
from launch.command.cli import UserError

Fetch = Callable[[], bytes | memoryview]


class NumberedShards:
    """The shards of several indexes under one numbering: the first index's, then the second's, …"""

    def __init__(self, indexes: Sequence[ShardIndex]):
        self.indexes = list(indexes)
        self.first = np.concatenate([[0], np.cumsum([len(index.shards) for index in indexes])]).tolist()
        self.classes = self.indexes[0].classes
        for index in self.indexes[1:]:
            if index.classes != self.classes:
                raise UserError(
                    f"data.mixture: {index.name or index.base} has other classes than data.index: "
                    "give all indexes the same class names"
                )

    def part(self, shard: int) -> tuple[ShardIndex, int]:
        """The index that a shard belongs to, and its number there."""
        which = bisect_right(self.first, shard) - 1
        return self.indexes[which], shard - self.first[which]

    def location(self, shard: int) -> str:
        """Path or URL of a shard."""
        index, local = self.part(shard)
        return index.location(local)

    def extent(self, shard: int, start: int, stop: int) -> tuple[int, int] | None:
        """Byte offsets of samples `start` to `stop` - 1; None where no offsets are known."""
        index, local = self.part(shard)
        return None if index.offsets is None else index.offsets.extent(local, start, stop)

    @property
    def remote(self) -> bool:
        """Whether any shard is behind a URL."""
        return any(index.remote for index in self.indexes)


class Reader(Protocol):
    """Reads the bytes of samples, from several threads at once."""

    def read(self, shard: int, position: int) -> bytes | memoryview:
        """The part of the shard that holds one sample, tar headers included."""
        ...

    def fetchers(self, order: Order, lanes: np.ndarray, positions: np.ndarray, places: np.ndarray) -> list[Fetch]:
        """For each slot of a step, a function that returns its sample's bytes. Called step by step, in order."""
        ...

    def close(self) -> None:
        """Close files and end threads."""


class _File:
    """A descriptor that is closed once no thread uses it."""

    def __init__(self, path: str):
        self.number = open_plain(path)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class LocalReader:
    """Reads by byte offset with `pread`; at most `most_open` shards are open at once."""

    def __init__(self, shards: NumberedShards, most_open: int = 128):
        self._shards, self._most = shards, most_open
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, position: int) -> bytes:
        """See Reader. UserError, naming the shard, when it is gone or can't be read."""
        extent = self._shards.extent(shard, position, position + 1)
        assert extent is not None, "local shards have offsets"
        return self.stretch(shard, *extent)

    def stretch(self, shard: int, first: int, last: int) -> bytes:
        """Bytes `first` to `last` - 1 of a shard; fewer at its end. UserError as in `read`."""
        try:
            return os.pread(self._file(shard).number, last - first, first)
        except OSError as error:
            location = self._shards.location(shard)
            raise UserError(f"shard {location} can't be read ({error.strerror}): restore it and resume") from error

    def fetchers(self, order: Order, lanes: np.ndarray, positions: np.ndarray, places: np.ndarray) -> list[Fetch]:
        """See Reader."""
        return [partial(self.read, shard, position) for shard, position, _ in places.tolist()]

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._open.clear()

    def _file(self, shard: int) -> _File:
        with self._lock:
            file = self._open.get(shard)
            if file is None:
                file = self._open[shard] = _File(self._shards.location(shard))
                if len(self._open) > self._most:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(shard)
            return file
