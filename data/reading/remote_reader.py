"""Samples of remote shards: each lane's windows are fetched ahead, in one read each, and returned in the lane's order.

With offsets beside the index a window is one range of bytes. Without them, its shard is read from the last sample whose
place is known; places are remembered, so a lane reads each shard once. With a cache, shards are copied whole first.
"""

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from data.config import CodeDataConfig
from data.reading.readers import Fetch, LocalReader, NumberedShards, Windows
from data.remote.cache import ShardCache
from data.remote.files import Patience, RemoteFile, Versions, whole
from data.remote.stores import without_secrets
from data.shards.locations import is_remote
from data.shards.offsets import Pieces
from data.shards.runs import samples, scan
from data.shards.sample import DamagedSampleError
from data.shards.tar import TarError
from launch.command.cli import UserError

_NEAR = 1 << 22
"""Bytes in which the pieces of a run are read by one request."""


@dataclass(frozen=True)
class _Run:
    """Neighbouring samples of a shard, in memory."""

    raw: bytes
    starts: list[int]
    """Where each begins in `raw`, and the end of the last; shorter where the archive is damaged."""
    damage: str = ""
    further: Mapping[int, bytes] = field(default_factory=dict)
    """Pieces of samples that lie elsewhere in the shard, by the sample's number in the run."""

    def sample(self, number: int) -> bytes | memoryview:
        """Bytes of the run's sample `number`."""
        if number + 1 >= len(self.starts):
            raise DamagedSampleError(self.damage or "the shard holds fewer samples than its index says")
        piece = memoryview(self.raw)[self.starts[number] : self.starts[number + 1]]
        return b"".join([piece, self.further[number]]) if number in self.further else piece


@dataclass(frozen=True)
class _Window:
    """A lane's window that is being fetched."""

    runs: list[tuple[int, int, int]]
    futures: list[Future[_Run]]

    def find(self, shard: int, position: int) -> Fetch | None:
        """A function that waits for one sample's bytes; None for a sample outside this window."""
        for (of, start, stop), future in zip(self.runs, self.futures, strict=True):
            if of == shard and start <= position < stop:
                return lambda: future.result().sample(position - start)
        return None


class RemoteReader(LocalReader):
    """At most two windows a lane, and the batches in preparation, are in memory. Some shards may be local."""

    def __init__(self, shards: NumberedShards, config: CodeDataConfig):
        super().__init__(shards)
        self._patience = Patience(config.retries, config.retry_pause, config.stall_seconds)
        self._stopped, self._versions = threading.Event(), Versions()
        self._pool = ThreadPoolExecutor(config.connections, thread_name_prefix="data-fetch")
        self._cache = ShardCache(config.cache, config.cache_gigabytes) if config.cache else None
        self._windows: dict[tuple[int, ...], dict[tuple[int, ...], _Window]] = {}
        self._known: dict[int, list[int]] = {}
        self._places = threading.Lock()

    def read(self, shard: int, position: int) -> bytes | memoryview:
        """The sample's bytes from a fetched window, else by a read of its own."""
        for windows in list(self._windows.values()):
            for window in list(windows.values()):
                if (fetcher := window.find(shard, position)) is not None:
                    return fetcher()
        return self._run(shard, position, position + 1).sample(0)

    def fetchers(self, order: Windows, lanes: np.ndarray, positions: np.ndarray, places: np.ndarray) -> list[Fetch]:
        """See LocalReader. Starts to fetch the windows that this step or the next half window needs."""
        ahead = max(1, order.window // 2)
        fetches = []
        for lane, position, (shard, place, _) in zip(lanes.tolist(), positions.tolist(), places.tolist(), strict=True):
            fetcher = self._ensure(order, lane, position, current=True).find(shard, place)
            assert fetcher is not None, "a sample lies in its window"
            fetches.append(fetcher)
        for lane, last in dict(zip(lanes.tolist(), positions.tolist(), strict=True)).items():
            self._ensure(order, lane, last + ahead, current=False)
        return fetches

    def close(self) -> None:
        """End the fetching."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        super().close()

    def _ensure(self, order: Windows, lane: int, position: int, *, current: bool) -> _Window:
        name, runs = order.neighbours(lane, position)
        windows = self._windows.setdefault(name[:-2], {})
        window = windows.get(name[-2:])
        if window is None:
            window = _Window(runs, [self._pool.submit(self._run, *run) for run in runs])
            windows[name[-2:]] = window
        if current:
            for passed in [other for other in windows if other < name[-2:]]:
                del windows[passed]
        return window

    def _run(self, shard: int, start: int, stop: int) -> _Run:
        """Fetch samples `start` to `stop` - 1 of a shard; on a fetching thread."""
        index, local = self._shards.part(shard)
        location = index.location(local)
        if index.layout.pieces and index.offsets is None:
            raise UserError(f"members of samples lie apart in {without_secrets(location)}, and the index's offsets "
                            "file, which says where, is missing: put it beside the index")  # fmt: skip
        if not is_remote(location):
            return self._from(partial(self.stretch, shard), shard, start, stop)
        if self._cache is not None:
            descriptor = self._cache.open(self._opened(shard), index.shards[local].filesize)
            try:
                return self._from(lambda first, last: os.pread(descriptor, last - first, first), shard, start, stop)
            finally:
                os.close(descriptor)
        if index.offsets is not None or len(self._known.get(shard, ())) > stop:
            return self._from(lambda first, last: whole(self._opened(shard, first, last)), shard, start, stop)
        return self._walk(shard, start, stop)

    def _opened(self, shard: int, start: int = 0, stop: int | None = None) -> RemoteFile:
        """Bytes `start` to `stop` - 1 of a remote shard, which must be what it was when it was read before."""
        index, local = self._shards.part(shard)
        return RemoteFile(
            index.location(local),
            self._patience,
            start=start,
            stop=stop,
            stopped=self._stopped,
            versions=self._versions,
            index_size=index.shards[local].filesize,
        )

    def _from(self, read: Callable[[int, int], bytes], shard: int, start: int, stop: int) -> _Run:
        """A run by its byte offsets, which are found first if unknown; `read` returns bytes of its shard."""
        index, local = self._shards.part(shard)
        further: dict[int, bytes] = {}
        if index.offsets is not None:
            places, damage = index.offsets.of_shard(local, start, stop), ""
            further = _further(index.offsets.pieces(local), read, start, stop)
        else:
            if shard not in self._known:
                self._known[shard] = scan(_Seekable(read), index.layout).samples(index.layout).starts
            places, damage = self._known[shard][start : stop + 1], "its archive is damaged"
        if len(places) < 2:
            return _Run(b"", [], damage)
        return _Run(read(places[0], places[-1]), [place - places[0] for place in places], damage, further)

    def _walk(self, shard: int, start: int, stop: int) -> _Run:
        """A run of a shard without offsets: read from the last known place to sample `stop`."""
        with self._places:
            known = self._known.setdefault(shard, [0])
            number = min(start, len(known) - 1)
            begin = known[number]
        file = self._opened(shard, begin)
        kept, starts, damage = [], [0], ""
        try:
            for first, raw in samples(file, begin, self._shards.part(shard)[0].layout):
                with self._places:
                    if len(known) == number + 1:
                        known.append(first + len(raw))
                if number >= start:
                    kept.append(raw)
                    starts.append(starts[-1] + len(raw))
                number += 1
                if number == stop:
                    break
        except TarError as error:
            damage = str(error)
        finally:
            file.close()
        return _Run(b"".join(kept), starts, damage)


def _further(pieces: Pieces, read: Callable[[int, int], bytes], start: int, stop: int) -> dict[int, bytes]:
    """The further pieces of samples `start` to `stop` - 1, by number in the run; near ones are read at once."""
    of = {position - start: pieces[position] for position in range(start, stop) if position in pieces} if pieces else {}
    if not of:
        return {}
    first = min(a for ranges in of.values() for a, _ in ranges)
    last = max(b for ranges in of.values() for _, b in ranges)
    if last - first <= _NEAR:
        raw = read(first, last)
        return {number: b"".join(raw[a - first : b - first] for a, b in ranges) for number, ranges in of.items()}
    return {number: b"".join(read(a, b) for a, b in ranges) for number, ranges in of.items()}


class _Seekable:
    """A file for `data.shards.runs.scan`, over a function that reads bytes by offset."""

    def __init__(self, read: Callable[[int, int], bytes]):
        self._read, self._offset = read, 0

    def seek(self, offset: int) -> None:
        self._offset = offset

    def read(self, count: int) -> bytes:
        piece = self._read(self._offset, self._offset + count)
        self._offset += len(piece)
        return piece
