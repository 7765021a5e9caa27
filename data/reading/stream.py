"""From shards to batches: order, byte-offset reads and decoding threads. A stream keeps no state but the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count, pairwise
from typing import Any

import numpy as np

from data.config import CodeDataConfig, DataConfig
from data.media import Transform, media_of
from data.order.mixture import MixtureOrder
from data.order.sample_order import SampleOrder, divisors
from data.reading.paired import PairedCodes, paired_codes
from data.reading.read_ahead import ReadAhead, Request
from data.reading.readers import NumberedShards
from data.remote.stores import without_secrets
from data.shards.classes import held_to
from data.shards.index import ShardIndex
from data.shards.loading import check_present, load_index
from launch.command.cli import UserError

_LOCAL_WINDOW, _REMOTE_WINDOW, _REMOTE_LANES = 4096, 256, 64


class Stream:
    """Endless training batches of one rank; a context manager (its threads end with it).

    The configuration says which kind of samples they are; the batches are those of its decoder (`data.media`). Raises
    UserError, before the first batch, for a missing shard or ranks that don't divide the lanes; while reading, for more
    damaged samples than `config.max_damaged` allows. With `config.codes` the batches are `data.reading.paired.Paired`.
    `index` is the (first) shard index.
    """

    def __init__(self, config: CodeDataConfig, *, seed: int, rank: int = 0, world_size: int = 1):
        self.config, self.rank, self.world_size = config, rank, world_size
        if not config.index:
            raise UserError("data.index is not set: give the path or URL of a shard index")
        self.shards = _open([config.index, *config.mixture], config.kind, rank, world_size)
        self.index = self.shards.indexes[0]
        self.order = make_order(config, self.shards, seed)
        try:
            self.order.part(0, rank, world_size)
        except ValueError as error:
            raise UserError(str(error)) from error
        place = config.codes if isinstance(config, DataConfig) else None
        codes = PairedCodes(paired_codes(place, self.index, rank, world_size), self.index) if place else None
        self._read_ahead = ReadAhead(config, self.shards, seed=None if codes else seed, order=self.order, codes=codes)
        self.tally = self._read_ahead.tally

    def batches(self, start: int = 0) -> Iterator[Any]:
        """This rank's part of the global batches `start`, `start` + 1, … without end."""
        return self._read_ahead.run(self._request(step) for step in count(start))

    def _request(self, step: int) -> Request:
        lanes, positions, places = self.order.part(step, self.rank, self.world_size)
        fetches = self._read_ahead.reader.fetchers(self.order, lanes, positions, places)
        return Request(step, fetches, places, list(zip(lanes.tolist(), positions.tolist(), strict=True)))

    def close(self) -> None:
        """End the threads and close the files."""
        self._read_ahead.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def every_sample(
    index: ShardIndex | str,
    transform: Transform,
    *,
    batch_size: int,
    threads: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
    max_damaged: float = 0.01,
) -> Iterator[Any]:
    """Each sample of an index (or of the index at a path or URL) exactly once, in order: rank q's contiguous slice.

    The last batch may be smaller. Nothing is drawn at random. `limit` takes that many samples, evenly spaced. Damaged
    ones are dropped with a warning; UserError where their share is above `max_damaged`, and at once for a missing
    shard.
    """
    config = DataConfig(batch_size=batch_size, threads=threads, max_damaged=max_damaged, transform=transform)
    return every_sample_of(index, config, rank, world_size, limit)


def every_code(
    index: ShardIndex | str, *, batch_size: int, rank: int = 0, world_size: int = 1, limit: int | None = None
) -> Iterator[Any]:
    """Each grid of codes (of `limit` that many) exactly once, as `every_sample` yields samples; none may be damaged."""
    return every_sample_of(index, CodeDataConfig(batch_size=batch_size, max_damaged=0.0), rank, world_size, limit)


def every_sample_of(
    index: ShardIndex | str, config: CodeDataConfig, rank: int, world_size: int, limit: int | None = None
) -> Iterator[Any]:
    """Each sample of any kind exactly once, in order, as `config` reads it; see `every_sample`."""
    shards = _open([index], config.kind)
    (opened,) = shards.indexes
    total = len(opened)
    chosen = np.arange(total, dtype=np.int64)
    if limit is not None and limit < total:
        chosen = chosen[:limit] * total // limit
    chosen = chosen[len(chosen) * rank // world_size : len(chosen) * (rank + 1) // world_size]
    read_ahead, order = ReadAhead(config, shards), _InOrder(opened, chosen)

    def requests() -> Iterator[Request]:
        for step, first in enumerate(range(0, len(chosen), config.batch_size)):
            numbers = chosen[first : first + config.batch_size]
            places = np.stack([*opened.places(numbers), np.zeros_like(numbers)], axis=1)
            positions = np.arange(first, first + len(numbers))
            yield Request(step, read_ahead.reader.fetchers(order, positions * 0, positions, places), places)

    def batches() -> Iterator[Any]:
        with closing(read_ahead):
            yield from read_ahead.run(requests())

    return batches()


class _InOrder:
    """Chosen samples of an index one after the other, in one lane, for a reader that fetches windows ahead."""

    window = _REMOTE_WINDOW

    def __init__(self, index: ShardIndex, chosen: np.ndarray):
        self._index, self._chosen = index, chosen

    def neighbours(self, lane: int, position: int) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
        """See `data.order.sample_order.Order`; beyond the end the last window."""
        number = min(position, len(self._chosen) - 1) // self.window
        shards, places = self._index.places(self._chosen[number * self.window : (number + 1) * self.window])
        breaks = np.flatnonzero((np.diff(shards) != 0) | (np.diff(places) != 1)) + 1
        edges = [0, *breaks.tolist(), len(shards)]
        runs = [(int(shards[a]), int(places[a]), int(places[b - 1]) + 1) for a, b in pairwise(edges)]
        return (lane, 0, number), runs


def make_order(config: CodeDataConfig, shards: NumberedShards, seed: int) -> SampleOrder | MixtureOrder:
    """The order that a configuration means for these shards. UserError for numbers that don't fit them."""
    fewest = min(len(index) for index in shards.indexes)
    most = min(fewest, _REMOTE_LANES) if shards.remote else fewest
    lanes = config.lanes or max([d for d in divisors(config.batch_size) if d <= most], default=1)
    window = config.window or (_REMOTE_WINDOW if shards.remote else _LOCAL_WINDOW)
    try:
        # Each source permutes its shards by a seed of its own: two sets of equal sizes must not go in step.
        orders = [
            SampleOrder(index.sizes, seed=seed + (i << 64), batch_size=config.batch_size, lanes=lanes, window=window)
            for i, index in enumerate(shards.indexes)
        ]
        if len(orders) == 1:
            return orders[0]
        several = len({index.kind for index in shards.indexes}) > 1
        return MixtureOrder(orders, [1.0, *config.mixture.values()], seed=seed, whole_batches=several)
    except ValueError as error:
        raise UserError(str(error)) from error


def _open(sources: Sequence[ShardIndex | str], kind: str, rank: int = 0, world_size: int = 1) -> NumberedShards:
    """Indexes of a kind of sample; UserError for another kind and for missing shards."""
    indexes: list[ShardIndex] = []
    for source in sources:
        index = source if isinstance(source, ShardIndex) else load_index(source)
        if index.kind != kind and not (indexes and index.kind in media_of(kind).mixes):
            place = index.path if isinstance(source, ShardIndex) else without_secrets(source)
            raise UserError(f"data.index={place} holds {index.kind}, not {kind}: give an index of {kind}")
        check_present(index, rank, world_size)
        if indexes and index.kind == kind:
            what = f"data.mixture[{index.path or index.base}]"
            index = held_to(index, indexes[0].classes, what, "data.index")
        indexes.append(index)
    return NumberedShards(indexes)
