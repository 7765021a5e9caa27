"""The machinery under every stream: requests in, batches out; threads in between, and damaged samples replaced.

Nothing here depends on the number of threads: what a row holds is a function of its request alone.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from data.order.sample_order import Order
from data.reading.readers import Fetch, NumberedShards, Reader
from data.shards.quarantine import Quarantine
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError

BatchT = TypeVar("BatchT")
BatchT_co = TypeVar("BatchT_co", covariant=True)
BufferT = TypeVar("BufferT")
_log = logging.getLogger(__name__)
_MOST_TRIES = 1000
_LEAST_ASKED = 1000
_WARNINGS = 5


class Decoder(Protocol[BufferT, BatchT_co]):
    """Turns samples' bytes into rows of a batch."""

    def allocate(self, rows: int) -> BufferT:
        """Room for a batch."""
        ...

    def fill(self, raw: bytes | memoryview, epoch: int, buffer: BufferT, row: int) -> tuple[str, int]:
        """Decode one sample into a row; its key and label. DamagedSampleError if it can't be."""
        ...

    def finish(
        self, step: int, buffer: BufferT, rows: list[int] | None, labels: list[int], keys: list[str]
    ) -> BatchT_co:
        """The batch; `rows` are those of the buffer that count, None: all."""
        ...


@dataclass(frozen=True)
class Request:
    """The samples of one batch."""

    step: int
    fetches: list[Fetch]
    found: np.ndarray
    """Int64 (n, 3): shard, position and epoch of each row."""
    slots: list[tuple[int, int]] | None = None
    """Lane and position in it of each row; None: a damaged row is left out instead of replaced."""


class Damage(NamedTuple):
    """A sample that couldn't be used."""

    shard: int
    position: int
    reason: str


class _Row(NamedTuple):
    key: str
    label: int
    damage: Damage | None
    whole: bool


@dataclass
class Tally:
    """What a stream met so far on this rank."""

    asked: int = 0
    quarantined: int = 0
    damaged: dict[str, int] = field(default_factory=dict)
    """Damaged samples by shard."""
    examples: list[str] = field(default_factory=list)
    """The first few, with reasons."""


class Engine(Generic[BufferT, BatchT]):
    """Reads and decodes requests on a thread pool, at most `read_ahead` batches ahead of the one given out."""

    def __init__(
        self,
        shards: NumberedShards,
        reader: Reader,
        decoder: Decoder[BufferT, BatchT],
        *,
        threads: int,
        read_ahead: int,
        max_damaged: float,
        order: Order | None = None,
    ):
        self._shards, self.reader, self._decoder, self._order = shards, reader, decoder, order
        self._threads, self._read_ahead, self._max_damaged = threads, read_ahead, max_damaged
        self._quarantine = Quarantine.of(shards)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="data")
        self.tally = Tally()

    def run(self, requests: Iterator[Request]) -> Iterator[BatchT]:
        """The batches of the requests, in order. UserError when too many samples are damaged."""
        pending: deque[tuple[Request, BufferT, list[Future[list[_Row]]]]] = deque()
        try:
            for request in requests:
                pending.append(self._submit(request))
                if len(pending) > self._read_ahead:
                    batch = self._collect(*pending.popleft())
                    if batch is not None:
                        yield batch
            while pending:
                batch = self._collect(*pending.popleft())
                if batch is not None:
                    yield batch
        finally:
            for _, _, futures in pending:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """End the threads and close the files."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.reader.close()

    def _submit(self, request: Request) -> tuple[Request, BufferT, list[Future[list[_Row]]]]:
        count = len(request.fetches)
        buffer = self._decoder.allocate(count)
        # Small pieces keep the threads level at a batch's end; of one digit each, they would cost more than the digits.
        size = max(1, min(64, -(-count // (4 * self._threads))))
        futures = [
            self._pool.submit(self._rows, request, buffer, first, min(first + size, count))
            for first in range(0, count, size)
        ]
        return request, buffer, futures

    def _rows(self, request: Request, buffer: BufferT, first: int, last: int) -> list[_Row]:
        rows = []
        for row in range(first, last):
            shard, position, epoch = request.found[row].tolist()
            try:
                rows.append(_Row(*self._decode(shard, position, epoch, request.fetches[row], buffer, row), None, True))
            except DamagedSampleError as error:
                damage = Damage(shard, position, str(error))
                if request.slots is None:
                    rows.append(_Row("", -1, damage, False))
                else:
                    rows.append(_Row(*self._replace(request.slots[row], epoch, buffer, row), damage, True))
        return rows

    def _decode(
        self, shard: int, position: int, epoch: int, fetch: Fetch, buffer: BufferT, row: int
    ) -> tuple[str, int]:
        reason = self._quarantine.reason(shard, position)
        if reason is not None:
            raise DamagedSampleError(f"{Quarantine.MARK}{reason}")
        return self._decoder.fill(fetch(), epoch, buffer, row)

    def _replace(self, slot: tuple[int, int], epoch: int, buffer: BufferT, row: int) -> tuple[str, int]:
        """Fill a row with the nearest sound sample before it in its lane (at the very start, after it)."""
        assert self._order is not None
        lane, position = slot
        tried: set[int] = set()
        for turn in range(1, _MOST_TRIES + 1):
            other = position - turn if turn <= position else turn
            shard, place, _ = self._order.at(np.array([lane]), np.array([other]))[0].tolist()
            tried.add(shard)
            try:
                fetch: Fetch = lambda: self.reader.read(shard, place)  # noqa: B023, E731
                return self._decode(shard, place, epoch, fetch, buffer, row)
            except DamagedSampleError:
                continue
        names = ", ".join(self._shards.location(shard) for shard in sorted(tried)[:5])
        raise UserError(
            f"{_MOST_TRIES} neighbouring samples are damaged, in {names}: "
            "check with `python -m data.inspect INDEX --verify`"
        )

    def _collect(self, request: Request, buffer: BufferT, futures: list[Future[list[_Row]]]) -> BatchT | None:
        rows = [row for future in futures for row in future.result()]
        self.tally.asked += len(rows)
        for row in rows:
            if row.damage is not None:
                self._count(row.damage)
        kept = [i for i, row in enumerate(rows) if row.whole]
        if not kept:
            return None
        labels, keys = [rows[i].label for i in kept], [rows[i].key for i in kept]
        return self._decoder.finish(request.step, buffer, kept if len(kept) < len(rows) else None, labels, keys)

    def _count(self, damage: Damage) -> None:
        if damage.reason.startswith(Quarantine.MARK):
            self.tally.quarantined += 1
            return
        tally, where = self.tally, self._shards.location(damage.shard)
        tally.damaged[where] = tally.damaged.get(where, 0) + 1
        if len(tally.examples) < _WARNINGS:
            tally.examples.append(f"{where}, sample {damage.position}: {damage.reason}")
            _log.warning("damaged sample passed over: %s", tally.examples[-1])
        total = sum(tally.damaged.values())
        if total > self._max_damaged * max(tally.asked, _LEAST_ASKED):
            worst = sorted(tally.damaged, key=lambda name: -tally.damaged[name])[:5]
            names = ", ".join(f"{name} ({tally.damaged[name]})" for name in worst)
            raise UserError(
                f"{total} of {tally.asked} samples are damaged, over data.max_damaged={self._max_damaged}: {names}; "
                f"the first: {tally.examples[0]}; check with `python -m data.inspect INDEX --verify`"
            )


def usable_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
