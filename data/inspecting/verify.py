"""Reads and decodes every sample of a set, in several processes, and lists what is wrong."""

import collections
import dataclasses
import hashlib
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from data.media import handler
from data.remote.stores import without_secrets
from data.shards.compressed import open_plain
from data.shards.index import ShardIndex
from data.shards.locations import is_remote
from data.shards.runs import Samples, Scan, scan
from data.shards.sample import DamagedSampleError, read_sample, unsettled
from data.shards.scanning import sha256_of
from data.shards.settling import ORDER, told
from data.shards.tally import Tally, printable
from launch.command.cli import UserError
from launch.command.progress import Progress
from launch.command.workers import workers

_SHOWN = 5
_Seen = tuple[bytes, str, int]
"""Hash of the content, key and label of a sound sample."""


@dataclass(frozen=True)
class Bad:
    """A sample and what is wrong with it."""

    url: str
    position: int
    key: str
    why: str


@dataclass
class Findings:
    """What verification found."""

    shards: int = 0
    samples: int = 0
    damaged_tars: dict[str, str] = field(default_factory=dict)
    """Shard url → what is wrong."""
    unsound: list[Bad] = field(default_factory=list)
    """Samples that can't be used: they don't decode, or their label is no class."""
    misnamed: list[Bad] = field(default_factory=list)
    """Samples whose extension names another format than their bytes have; they can be used."""
    conflicts: list[list[str]] = field(default_factory=list)
    """Equal samples with different labels, of which at most one is right; `url key (class)` of each."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Equal samples with equal labels."""
    crowded: list[Bad] = field(default_factory=list)
    """Samples with several pictures of which the index names none: names with dots become one sample so."""
    tally: Tally = field(default_factory=Tally)
    """What is in the tars, and what of it is no sample."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; duplicates and misnamed samples are no faults."""
        return not (self.damaged_tars or self.unsound or self.conflicts or self.crowded)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "tally": self.tally.to_json(), "sound": self.sound}


def verify(index: ShardIndex, *, processes: int = 1, max_pixels: int = 100_000_000) -> Findings:
    """Read and check every sample. UserError where shards are remote."""
    locations = [index.location(i) for i in range(len(index.shards))]
    remote = next((location for location in locations if is_remote(location)), None)
    if remote is not None:
        name = without_secrets(remote)
        raise UserError(f"{name} is remote, and verification reads all of it: copy the set to this machine first")
    findings = Findings(shards=len(index.shards))
    by_hash: dict[bytes, list[tuple[str, int]]] = collections.defaultdict(list)
    work = partial(_verify_shard, dataclasses.replace(index, offsets=None), max_pixels)
    with Progress("verify", len(index), unit="samples") as bar:
        for shard, (of, seen) in zip(index.shards, _in_processes(work, len(index.shards), processes), strict=True):
            bar.advance(shard.nsamples)
            findings.samples += of.samples
            findings.damaged_tars |= of.damaged_tars
            findings.unsound += of.unsound
            findings.misnamed += of.misnamed
            findings.crowded += of.crowded
            findings.tally += of.tally
            for digest, key, number in seen:
                by_hash[digest].append((f"{shard.url} {key}", number))
    for same in by_hash.values():
        if len(same) > 1:
            agree = len({number for _, number in same}) == 1
            names = [name if agree else f"{name} ({index.class_name(number)})" for name, number in same]
            (findings.duplicates if agree else findings.conflicts).append(names)
    return findings


def _in_processes(work: Any, count: int, processes: int) -> Any:
    if processes == 1 or count == 1:
        yield from map(work, range(count))
        return
    with workers(min(processes, count)) as pool:
        yield from pool.map(work, range(count))


def _verify_shard(index: ShardIndex, max_pixels: int, shard: int) -> tuple[Findings, list[_Seen]]:
    """Check every sample of one shard; those lost in a damaged tar count as unsound."""
    url, expected = index.shards[shard].url, index.shards[shard].nsamples
    of, seen = Findings(), list[_Seen]()
    tar, samples = Scan(), Samples()
    try:
        descriptor = open_plain(index.location(shard))
    except OSError as error:
        tar.damage = error.strerror or str(error)
    else:
        with os.fdopen(descriptor, "rb") as file:
            tar = scan(file, index.layout)
            samples = tar.samples(index.layout)
            for position, key in enumerate(samples.keys):
                stretches = [(samples.starts[position], samples.starts[position + 1])]
                stretches += samples.pieces.get(position, [])
                raw = b"".join(os.pread(file.fileno(), end - start, start) for start, end in stretches)
                _verify_sample(index, raw, Bad(url, position, key, ""), max_pixels, of, seen)
    if index.kind in ORDER:
        of.tally = told([tar], index.layout, index.kind)
    if not tar.damage and len(samples.keys) != expected:
        tar.damage = f"{len(samples.keys)} samples, but the index says {expected}: make the index again"
    stated = index.shards[shard].sha256
    if not tar.damage and stated not in (None, sha256_of(index.location(shard))):
        tar.damage = "its content is another than when its index was made"
    if tar.damage:
        of.damaged_tars[url] = tar.damage
    lost = range(len(samples.keys), expected)
    of.unsound += [Bad(url, position, "", f"its tar is damaged: {tar.damage}") for position in lost]
    return of, seen


def _verify_sample(index: ShardIndex, raw: bytes, place: Bad, max_size: int, of: Findings, seen: list[_Seen]) -> None:
    of.samples += 1
    try:
        sample = read_sample(raw, index.layout)
        if index.kind == "pictures" and (among := unsettled(sample)):
            of.crowded.append(dataclasses.replace(place, why=among))
        number = index.label_of(sample)
        contents, note = handler(index.kind, "check")(sample, max_size)
    except DamagedSampleError as error:
        of.unsound.append(dataclasses.replace(place, why=str(error)))
        return
    if contents is not None:
        seen.append((hashlib.blake2b(contents, digest_size=16).digest(), place.key, number))
    if note:
        of.misnamed.append(dataclasses.replace(place, why=note))


def findings_text(findings: Findings, kind: str = "pictures") -> str:
    """The findings, a few examples of each."""
    lines = [f"verified {findings.samples} samples in {findings.shards} shards"]
    for title, entries in (
        ("damaged tars", [f"{url}: {why}" for url, why in findings.damaged_tars.items()]),
        ("unsound samples", [f"{s.url} {s.key}: {s.why}" for s in findings.unsound]),
        (
            f"samples of several {kind}, of which the index names none",
            [f"{s.url} {s.key}: {s.why}" for s in findings.crowded],
        ),
        ("extensions that don't fit the contents", [f"{s.url} {s.key}: {s.why}" for s in findings.misnamed]),
        (f"equal {kind} with different labels", [" = ".join(group) for group in findings.conflicts]),
        (f"equal {kind}", [" = ".join(group) for group in findings.duplicates]),
    ):
        lines.append(f"{title}: {len(entries) or 'none'}")
        lines += [f"  {printable(entry)}" for entry in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"  … and {len(entries) - _SHOWN} more")
    return "\n".join([*lines, *findings.tally.lines()])
