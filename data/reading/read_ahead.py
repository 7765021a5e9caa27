"""Requests in, batches out: samples are read and decoded ahead on threads, and damaged ones replaced.

The number of threads changes nothing: what a row holds is a function of its request alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from data.config import CodeDataConfig
from data.media import handler
from data.order.sample_order import Order
from data.reading.paired import Paired, PairedCodes
from data.reading.readers import Fetch, LocalReader, NumberedShards
from data.reading.remote_reader import RemoteReader
from data.shards.quarantine import QuarantinedError, quarantined
from data.shards.sample import DamagedSampleError, Sample, caption, read_sample
from launch.command.cli import UserError
from launch.command.cores import share

_log = logging.getLogger(__name__)
MOST_THREADS = 8
"""Of a rank, where data.threads doesn't say."""

_MAX_TRIES = 1000
_MIN_SAMPLES = 1000
_WARNINGS = 5


Memory = Any
"""What a decoder fills."""


class Decoder(Protocol):
    """Turns samples of one kind into rows of a batch (`data.media` lists the decoders)."""

    def allocate(self, rows: int) -> Memory:
        """Memory for a batch: a tensor, or what takes a list of rows in brackets as tensors do."""
        ...

    def fill(self, sample: Sample, epoch: int, buffer: Memory, row: int) -> None:
        """Decode one sample into a row; DamagedSampleError if it can't be decoded."""
        ...

    @property
    def batch(self) -> Callable[[int, Memory, torch.Tensor, list[str], list[str]], Any]:
        """The class of its batches: of step, filled rows, label_B, keys and captions."""
        ...


class Both(NamedTuple):
    """Memory for samples and for their codes."""

    samples: Memory
    codes: Any

    def of(self, rows: list[int]) -> Both:
        """Some rows."""
        return Both(self.samples[rows], self.codes[rows])


@dataclass(frozen=True)
class Request:
    """The samples of one batch."""

    step: int
    fetches: list[Fetch]
    places: np.ndarray
    """Int64 (n, 3): shard, position and epoch of each row."""
    slots: list[tuple[int, int]] | None = None
    """Lane and position in it of each row; None: a damaged row is dropped instead of replaced."""


class _Row(NamedTuple):
    """What a row of the buffer holds; without a key it holds nothing."""

    key: str | None = None
    label: int = -1
    caption: str = ""
    damage: DamagedSampleError | None = None
    """What was wrong with the sample that belongs there."""


_Pending = tuple[Request, Memory, list[Future[list[_Row]]]]


@dataclass
class Tally:
    """What a stream has met on this rank."""

    requested: int = 0
    quarantined: int = 0
    damaged: dict[str, int] = field(default_factory=dict)
    """Damaged samples by shard."""
    examples: list[str] = field(default_factory=list)
    """The first few, with reasons."""


class ReadAhead:
    """Reads and decodes requests on a thread pool, at most `config.read_ahead` batches ahead of the one in use.

    `seed` decides the augmentation (None: none); `order` says what replaces a damaged sample. With `codes` the batches
    are Paired.
    """

    def __init__(
        self,
        config: CodeDataConfig,
        shards: NumberedShards,
        *,
        seed: int | None = None,
        order: Order | None = None,
        codes: PairedCodes | None = None,
    ):
        self._config, self._shards, self._order, self._codes = config, shards, order, codes
        self.reader = RemoteReader(shards, config) if shards.remote else LocalReader(shards)
        make = handler(config.kind, "decoder")
        firsts = {index.kind: index for index in reversed(shards.indexes)}
        self._decoders: dict[int, dict[str, Decoder]] = {
            step: {kind: make(index, seed, **settings) for kind, index in firsts.items()}
            for step, settings in config.decoding.items()
        }
        self._quarantine = quarantined(shards.indexes)
        self._threads = config.threads or share(most=MOST_THREADS)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="data")
        self.tally = Tally()

    def run(self, requests: Iterator[Request]) -> Iterator[Any]:
        """The batches of the requests, in order. UserError when too many samples are damaged."""
        pending: deque[_Pending] = deque()
        try:
            for request in requests:
                pending.append(self._submit(request))
                if len(pending) > self._config.read_ahead:
                    yield from self._collect(*pending.popleft())
            while pending:
                yield from self._collect(*pending.popleft())
        finally:
            for _, _, futures in pending:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """End the threads and close the files."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.reader.close()
        if self._codes is not None:
            self._codes.close()

    def _submit(self, request: Request) -> _Pending:
        count = len(request.fetches)
        buffer: Memory = self._decoder(request).allocate(count)
        if self._codes is not None:
            buffer = Both(buffer, self._codes.allocate(count))
        # Small pieces keep the threads level at a batch's end; of one digit each, they would cost more than the digits.
        size = max(1, min(64, -(-count // (4 * self._threads))))
        pieces = [range(first, min(first + size, count)) for first in range(0, count, size)]
        return request, buffer, [self._pool.submit(self._rows, request, buffer, piece) for piece in pieces]

    def _decoder(self, request: Request) -> Decoder:
        """What decodes a batch, whose samples are all of the kind of its first."""
        return self._decoders_at(request.step)[self._kind(int(request.places[0, 0]))]

    def _decoders_at(self, step: int) -> dict[str, Decoder]:
        """By kind of sample, what decodes the batch of a step."""
        return self._decoders[max(first for first in self._decoders if first <= step)]

    def _kind(self, shard: int) -> str:
        return self._shards.part(shard)[0].kind

    def _rows(self, request: Request, buffer: Memory, piece: range) -> list[_Row]:
        rows = []
        for row in piece:
            shard, position, epoch = request.places[row].tolist()
            try:
                rows.append(self._decode(request.step, shard, position, epoch, request.fetches[row], buffer, row))
            except DamagedSampleError as error:
                other = self._replace(request, shard, epoch, buffer, row) if request.slots else _Row()
                rows.append(other._replace(damage=error))
        return rows

    def _decode(self, step: int, shard: int, position: int, epoch: int, fetch: Fetch, buffer: Memory, row: int) -> _Row:
        if position in self._quarantine[shard]:
            raise QuarantinedError(self._quarantine[shard][position])
        index, _ = self._shards.part(shard)
        sample = read_sample(fetch(), index.layout)
        number = index.label_of(sample) if index.kind == self._config.kind else -1
        decoder = self._decoders_at(step)[index.kind]
        if self._codes is None:
            decoder.fill(sample, epoch, buffer, row)
        else:
            decoder.fill(sample, epoch, buffer.samples, row)
            self._codes.fill(shard, position, sample.key, buffer.codes, row)
        return _Row(sample.key, number, caption(sample))

    def _replace(self, request: Request, damaged: int, epoch: int, buffer: Memory, row: int) -> _Row:
        """Fill a row with the nearest sound sample before it in its lane (at the very start, after it), of its kind.

        `damaged` is the shard of its own.
        """
        assert self._order is not None and request.slots is not None
        lane, position = request.slots[row]
        tried: set[int] = set()
        for turn in range(1, _MAX_TRIES + 1):
            other = position - turn if turn <= position else turn
            shard, place, _ = self._order.at(np.array([lane]), np.array([other]))[0].tolist()
            if self._kind(shard) != self._kind(damaged):
                continue
            tried.add(shard)
            try:
                fetch = partial(self.reader.read, shard, place)
                return self._decode(request.step, shard, place, epoch, fetch, buffer, row)
            except DamagedSampleError:
                continue
        names = ", ".join(self._shards.name(shard) for shard in sorted(tried)[:5])
        raise UserError(
            f"{_MAX_TRIES} neighbouring samples are damaged, in {names}: "
            "check them with `python -m data.inspect INDEX --verify`"
        )

    def _collect(self, request: Request, buffer: Memory, futures: list[Future[list[_Row]]]) -> Iterator[Any]:
        """The batch of a request; none if all its rows were dropped."""
        rows = [row for future in futures for row in future.result()]
        self.tally.requested += len(rows)
        for row, (shard, position, _) in zip(rows, request.places.tolist(), strict=True):
            if row.damage is not None:
                self._count(self._shards.name(shard), position, row.damage)
        kept = [i for i, row in enumerate(rows) if row.key is not None]
        if not kept:
            return
        if len(kept) < len(rows):
            buffer, rows = buffer.of(kept) if isinstance(buffer, Both) else buffer[kept], [rows[i] for i in kept]
        keys, labels, captions = zip(*((row.key, row.label, row.caption) for row in rows), strict=True)
        label_B = torch.tensor(labels, dtype=torch.int64)
        both = buffer if self._codes is not None else Both(buffer, None)
        batch = self._decoder(request).batch(request.step, both.samples, label_B, list(keys), list(captions))
        yield batch if self._codes is None else Paired(batch, both.codes)

    def _count(self, shard: str, position: int, damage: DamagedSampleError) -> None:
        tally = self.tally
        if isinstance(damage, QuarantinedError):
            tally.quarantined += 1
            return
        tally.damaged[shard] = tally.damaged.get(shard, 0) + 1
        if len(tally.examples) < _WARNINGS:
            tally.examples.append(f"{shard}, sample {position}: {damage}")
            _log.warning("damaged sample skipped: %s", tally.examples[-1])
        total = sum(tally.damaged.values())
        if total > self._config.max_damaged * max(tally.requested, _MIN_SAMPLES):
            worst = sorted(tally.damaged, key=lambda name: -tally.damaged[name])[:5]
            names = ", ".join(f"{name} ({tally.damaged[name]})" for name in worst)
            raise UserError(
                f"{total} of {tally.requested} samples are damaged, over data.max_damaged={self._config.max_damaged}: "
                f"{names}; the first: {tally.examples[0]}; check them with `python -m data.inspect INDEX --verify`"
            )
