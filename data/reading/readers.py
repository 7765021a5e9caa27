"""The numbered shards of one or several indexes, and how the bytes of a sample are read."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Protocol

import numpy as np

from data.remote.stores import without_secrets
from data.shards.compressed import open_shard
from data.shards.index import ShardIndex
from launch.command.cli import UserError

Fetch = Callable[[], bytes | memoryview]


class Windows(Protocol):
    """As much of an order as a reader needs that fetches ahead."""

    window: int

    def neighbours(self, lane: int, position: int) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
        """See `data.order.sample_order.Order`."""
        ...


class NumberedShards:
    """The shards of several indexes under one numbering: the first index's, then the second's, …"""

    def __init__(self, indexes: Sequence[ShardIndex]):
        """All indexes of the first one's kind have its labels (data.shards.classes)."""
        self.indexes = list(indexes)
        self.first = np.concatenate([[0], np.cumsum([len(index.shards) for index in indexes])]).tolist()

    def part(self, shard: int) -> tuple[ShardIndex, int]:
        """The index that a shard belongs to, and its number there."""
        which = bisect_right(self.first, shard) - 1
        return self.indexes[which], shard - self.first[which]

    def location(self, shard: int) -> str:
        """Path or URL of a shard."""
        index, local = self.part(shard)
        return index.location(local)

    def name(self, shard: int) -> str:
        """Its path or URL for messages, without secrets."""
        return without_secrets(self.location(shard))

    @property
    def remote(self) -> bool:
        """Whether any shard is behind a URL."""
        return any(index.remote for index in self.indexes)


class LocalReader:
    """Reads the bytes of samples, from several threads at once; at most 128 shards are open."""

    def __init__(self, shards: NumberedShards):
        self._shards = shards
        self._open = lru_cache(128)(lambda shard: open_shard(shards.location(shard)))
        self._lock = threading.Lock()

    def read(self, shard: int, position: int) -> bytes | memoryview:
        """The part of the shard that holds one sample, tar headers included.

        UserError, naming the shard, when it is gone or can't be read.
        """
        index, local = self._shards.part(shard)
        assert index.offsets is not None, "local shards have offsets"
        raw = self.stretch(shard, *index.offsets.extent(local, position))
        pieces = index.offsets.pieces(local).get(position)
        return b"".join([raw, *(self.stretch(shard, *piece) for piece in pieces)]) if pieces else raw

    def stretch(self, shard: int, first: int, last: int) -> bytes:
        """Bytes `first` to `last` - 1 of a shard; fewer at its end. UserError as in `read`."""
        try:
            with self._lock:  # one thread opens a shard, the others wait for it
                file = self._open(shard)
            return file.read(first, last)
        except OSError as error:
            location = self._shards.name(shard)
            raise UserError(f"shard {location} can't be read ({error.strerror}): restore it and resume") from error

    def fetchers(self, order: Windows, lanes: np.ndarray, positions: np.ndarray, places: np.ndarray) -> list[Fetch]:
        """For each slot of a step, a function that returns its sample's bytes. Called step by step, in order."""
        return [partial(self.read, shard, position) for shard, position, _ in places.tolist()]

    def close(self) -> None:
        """Close files and end threads."""
        self._open.cache_clear()
