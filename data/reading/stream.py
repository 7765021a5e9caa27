"""From shards to batches: order, byte-offset reads and decoding threads. The loader keeps no state but the step.

Shapes: B batch (this rank's part), C channels, H W pixels, h w latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np

from data.codes.batches import CodeBatch, CodeDecoder
from data.config import CodeDataConfig, DataConfig
from data.order.mixture import MixtureOrder
from data.order.sample_order import SampleOrder, divisors
from data.pictures.batches import PictureBatch, PictureDecoder
from data.pictures.config import TransformConfig
from data.reading.read_ahead import Decoder, Engine, Request, Tally
from data.reading.readers import LocalReader, NumberedShards, Reader
from data.shards.loading import check_present, load_index
from launch.command.cli import UserError

BatchT = TypeVar("BatchT")
_LOCAL_WINDOW, _REMOTE_WINDOW, _REMOTE_LANES = 4096, 256, 64


class _Stream(Generic[BatchT]):
    """What pictures and codes share; see PictureStream."""

    _kind = ""

    def __init__(self, config: CodeDataConfig, *, seed: int, rank: int = 0, world_size: int = 1):
        self.config, self.seed, self.rank, self.world_size = config, seed, rank, world_size
        self.shards = _open(config, self._kind, rank, world_size)
        self.index = self.shards.indexes[0]
        self.order = make_order(config, self.shards, seed)
        try:
            self.order.slots(0, rank, world_size)
        except ValueError as error:
            raise UserError(str(error)) from error
        self._engine = Engine(
            self.shards,
            _reader(config, self.shards),
            self._decoder(),
            threads=config.threads,
            read_ahead=config.read_ahead,
            max_damaged=config.max_damaged,
            order=self.order,
        )

    def _decoder(self) -> Decoder[Any, BatchT]:
        raise NotImplementedError

    @property
    def damaged(self) -> dict[str, int]:
        """Damaged samples met so far on this rank, by shard."""
        return self._engine.tally.damaged

    @property
    def tally(self) -> Tally:
        """All counts of this rank: samples asked for, damaged, quarantined, and the first reasons."""
        return self._engine.tally

    def batches(self, start: int = 0) -> Iterator[BatchT]:
        """This rank's part of the global batches `start`, `start` + 1, … without end."""
        return self._engine.run(self._request(step) for step in count(start))

    def _request(self, step: int) -> Request:
        lanes, positions = self.order.slots(step, self.rank, self.world_size)
        found = self.order.at(lanes, positions)
        fetches = self._engine.reader.fetchers(self.order, lanes, positions, found)
        return Request(step, fetches, found, list(zip(lanes.tolist(), positions.tolist(), strict=True)))

    def close(self) -> None:
        """End the threads and close the files."""
        self._engine.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class PictureStream(_Stream[PictureBatch]):
    """Endless training pictures of one rank; a context manager (its threads end with it).

    Raises UserError, before the first batch, for a missing shard or ranks that don't divide the lanes; while reading,
    for more damaged samples than `config.max_damaged` allows. `index` is the (first) shard index.
    """

    _kind = "pictures"
    config: DataConfig

    def __init__(self, config: DataConfig, *, seed: int, rank: int = 0, world_size: int = 1):
        super().__init__(config, seed=seed, rank=rank, world_size=world_size)

    def _decoder(self) -> PictureDecoder:
        classes = len(self.shards.classes)
        return PictureDecoder(self.config.transform, classes, max_pixels=self.config.max_pixels, seed=self.seed)


class CodeStream(_Stream[CodeBatch]):
    """Endless training codes of one rank, as PictureStream gives pictures. `index.meta` tells whose codes they are."""

    _kind = "codes"

    def _decoder(self) -> CodeDecoder:
        return CodeDecoder(self.index)


def every_sample(
    index_path: str,
    transform: TransformConfig,
    *,
    batch_size: int,
    threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
    max_damaged: float = 0.01,
    max_pixels: int = 80_000_000,
) -> Iterator[PictureBatch]:
    """Each picture exactly once, in index order: rank q's contiguous slice; the last batch may be smaller.

    Nothing random is done to them. `limit` takes that many, evenly spaced over the index. Damaged samples are left out
    with a warning; UserError where their share is above `max_damaged`, and at once for a missing shard.
    """
    config = DataConfig(index=index_path, batch_size=batch_size, threads=threads, max_damaged=max_damaged)
    shards = _open(config, "pictures", 0, 1)
    decoder = PictureDecoder(transform, len(shards.classes), max_pixels=max_pixels, seed=None)
    return _each_once(config, shards, decoder, rank, world_size, limit)


def every_code(
    index_path: str,
    *,
    batch_size: int,
    threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
    max_damaged: float = 0.0,
) -> Iterator[CodeBatch]:
    """Each grid exactly once, as `every_sample` gives pictures; none may be damaged unless `max_damaged` allows."""
    config = CodeDataConfig(index=index_path, batch_size=batch_size, threads=threads, max_damaged=max_damaged)
    shards = _open(config, "codes", 0, 1)
    return _each_once(config, shards, CodeDecoder(shards.indexes[0]), rank, world_size, limit)


def _each_once(
    config: CodeDataConfig,
    shards: NumberedShards,
    decoder: Decoder[Any, BatchT],
    rank: int,
    world_size: int,
    limit: int | None,
) -> Iterator[BatchT]:
    reader = _reader(config, shards)
    total = sum(len(index) for index in shards.indexes)
    wanted = np.arange(total, dtype=np.int64)
    if limit is not None and limit < total:
        wanted = wanted[:limit] * total // limit
    wanted = wanted[len(wanted) * rank // world_size : len(wanted) * (rank + 1) // world_size]
    starts = np.concatenate([[0], np.cumsum([size for index in shards.indexes for size in index.sizes])])

    def requests() -> Iterator[Request]:
        for step, first in enumerate(range(0, len(wanted), config.batch_size)):
            chosen = wanted[first : first + config.batch_size]
            shard = np.searchsorted(starts, chosen, side="right") - 1
            found = np.stack([shard, chosen - starts[shard], np.zeros_like(chosen)], axis=1)
            yield Request(step, [partial(reader.read, s, p) for s, p, _ in found.tolist()], found)

    engine = Engine(
        shards,
        reader,
        decoder,
        threads=config.threads,
        read_ahead=config.read_ahead,
        max_damaged=config.max_damaged,
    )

    def batches() -> Iterator[BatchT]:
        try:
            yield from engine.run(requests())
        finally:
            engine.close()

    return batches()


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
        return orders[0] if len(orders) == 1 else MixtureOrder(orders, [1.0, *config.mixture.values()], seed=seed)
    except ValueError as error:
        raise UserError(str(error)) from error


def _open(config: CodeDataConfig, kind: str, rank: int, world_size: int) -> NumberedShards:
    """The indexes of a configuration, with their shards looked for."""
    if not config.index:
        raise UserError("data.index is not set: give the path or URL of a shard index")
    indexes = [load_index(path) for path in (config.index, *config.mixture)]
    for path, index in zip((config.index, *config.mixture), indexes, strict=True):
        if index.kind != kind:
            raise UserError(f"data.index={path} holds {index.kind}, not {kind}: give an index of {kind}")
        check_present(index, rank, world_size)
    return NumberedShards(indexes)


def _reader(config: CodeDataConfig, shards: NumberedShards) -> Reader:
    if not shards.remote:
        return LocalReader(shards)
    from data.reading.remote_reader import RemoteReader

    return RemoteReader(shards, config)
