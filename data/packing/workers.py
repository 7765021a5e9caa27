"""Packs one shard, and runs the processes that pack all of them."""

import collections
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from data.media import handler, media_of
from data.packing.sources.base import Raw, Source
from data.shards.sample import DamagedSampleError
from data.shards.tally import Tally
from data.shards.writer import Sample, ShardRecord, ShardWriter, fit_key, free_key
from launch.command.cli import UserError
from launch.command.workers import workers

TRIAL = 64
"""Samples, evenly spread, that are encoded to estimate the size of all."""
SAMPLE_OVERHEAD = 2048
"""Bytes that a sample takes in a tar beside its content: headers, padding and its label."""


@dataclass(frozen=True)
class Job:
    """One shard to be written."""

    split: str
    shard: str
    """File name."""
    numbers: np.ndarray
    """Of its samples in the source, in their order."""


def pack_shard(source: Source, job: Job, out: str, config: Any) -> ShardRecord:
    """Write one shard, unless it exists. Its record's notes list what was skipped, count the labels, and tell more."""
    notes: dict[str, Any] = {"skipped": [], "counts": {}}
    return ShardWriter(out).write(job.shard, _samples(source, job.numbers, config, notes), notes)


def _samples(source: Source, numbers: np.ndarray, config: Any, notes: dict[str, Any]) -> Iterator[Sample]:
    keys: set[str] = set()
    counts: collections.Counter[str] = collections.Counter()
    tally = Tally()
    convert = handler(source.media, "convert")
    for number in numbers.tolist():
        key = source.paths[number] if source.paths else f"sample {number}"
        try:
            raw = source.read(number)
            key = free_key(fit_key(raw.key), keys, number)
            extension, contents = convert(raw.encoded, raw.array, config)
        except (DamagedSampleError, OSError) as error:
            why = f"can't be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            notes["skipped"].append((key, why))
            tally.left_out(why, source.paths[number] if source.paths else key, of=source.media)
            continue
        if raw.member and not raw.members.keys().isdisjoint(media_of(source.media).members):
            extension = raw.member  # another picture or sound beside it may have the one that fits
        members = {extension: contents, **raw.members}
        if raw.label >= 0:
            members["cls"] = str(raw.label).encode()
        keys.add(key)
        counts[str(raw.label)] += 1
        _count(tally, source, raw, key)
        yield key, members
    notes["counts"] = dict(sorted(counts.items()))
    notes["tally"] = tally.to_json()


def _count(tally: Tally, source: Source, raw: Raw, key: str) -> None:
    """Count a sample, its label and its caption."""
    tally.took(source.media)
    if raw.label >= 0:
        tally.took("labels")
    if raw.members.get("txt"):
        tally.took("captions")
    elif source.captioned:
        tally.noted("without a caption", key)
    for note in raw.notes:
        tally.noted(note, key)


def shard_sizes(source: Source, numbers: np.ndarray, config: Any) -> np.ndarray:
    """Bytes that each sample takes in a shard: its file's where that is kept, else the mean of a trial."""
    if config.keeps_bytes and source.sizes is not None:
        return source.sizes[numbers] + SAMPLE_OVERHEAD
    spread = numbers[np.linspace(0, len(numbers) - 1, min(TRIAL, len(numbers))).astype(int)]
    sizes = [sum(map(len, members.values())) for _, members in _samples(source, spread, config, {"skipped": []})]
    return np.full(len(numbers), round(sum(sizes) / max(1, len(sizes))) + SAMPLE_OVERHEAD)


_shared: tuple[Source, str, Any]


def pack_shards(
    source: Source, jobs: Sequence[Job], out: str, config: Any, processes: int
) -> Iterator[tuple[Job, ShardRecord]]:
    """Write the shards with so many processes; yields each when it is finished, in no particular order.

    No more shards are begun than twice the processes before the finished ones are taken.
    """
    global _shared
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, pack_shard(source, job, out, config)
        return
    # Forked, so that a list of millions of files is shared, not sent: children inherit it through this global.
    _shared = (source, out, config)
    several = min(processes, len(jobs))
    waiting = iter(jobs)
    with ThreadPoolExecutor(several) if source.remote else workers(several) as pool:
        running: dict[Future[ShardRecord], Job] = {}
        try:
            while True:
                for job in islice(waiting, 2 * several - len(running)):
                    running[pool.submit(_pack_shared, job)] = job
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise UserError("a packing process died (killed, or out of memory?): rerun the same command, with fewer "
                            "--processes if memory was short; finished shards are kept") from error  # fmt: skip
        finally:
            for future in running:
                future.cancel()


def _pack_shared(job: Job) -> ShardRecord:
    source, out, config = _shared
    return pack_shard(source, job, out, config)
