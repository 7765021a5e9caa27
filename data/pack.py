"""A source of pictures → WebDataset shards with their index.

    python -m data.pack SOURCE OUT --kind folder|imagenet|celeba|idx|cifar|array|parquet|tars [options]

Each split becomes `OUT/<split>.json` and `OUT/<split>-000000.tar`, …. A killed pack goes on where it was when it is
started again with the same options, to the same bytes.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from data.packing.convert import ConvertConfig
from data.packing.sources import Source, open_source, source_class
from data.packing.splits import cut_by_bytes, cut_by_count, shuffled, split
from data.packing.workers import Job, encoded_size, pack_shards
from data.shards.writer import ShardRecord, ShardWriter
from launch.command.cli import UserError, parse, run
from launch.command.progress import Progress

SAMPLE_OVERHEAD = 2048
"""Bytes that a sample takes in a tar beside its picture: headers, padding and its label."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Pack a source of pictures into WebDataset shards with their index."""

    source: str
    """Folder, file or pattern to read; on the command line, the first word."""
    out: str
    """Folder for shards and indexes; on the command line, the second word."""
    kind: Literal["folder", "imagenet", "celeba", "idx", "cifar", "array", "parquet", "tars"]
    """folder: [split/]class/**/picture; imagenet: its layouts and devkit; celeba: aligned folder, attributes,
    partition; idx: MNIST's files; cifar: CIFAR-10/100's Python files; array: .npy or .npz; parquet: files with a column
    of pictures; tars: an index or tars to be re-sharded."""
    name: str = ""
    """Name of the set; none: the last part of OUT."""
    licence: str = ""
    """The pictures' licence, noted in the index."""
    held_out: float = 0.0
    """Share of the `train` split that becomes the split `held_out`, of each class alike."""
    samples_per_shard: int | None = None
    """Samples in a shard. None: 1000, unless megabytes_per_shard is set."""
    megabytes_per_shard: float | None = None
    """Size of a shard in MB of 10^6 bytes: a limit where original bytes are kept, else about, from a trial."""
    shuffle: bool = True
    """Mix the samples of a split over its shards. The loader's own shuffle works within windows, so a set sorted by
    class needs this one."""
    seed: int = 0
    """Of the shuffle and of what is held out."""
    label_attribute: str | None = None
    """celeba: the attribute that is the class, such as Smiling."""
    image_column: str | None = None
    """parquet: the column of pictures; none: the first that looks like it."""
    label_column: str | None = None
    """parquet: the column of classes; none: `label`, where there is one."""
    caption_column: str | None = None
    """parquet: the column of captions; none: they are left out. Folders have them in files, tars in `txt` members."""
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    """What is done to each picture."""
    processes: int | None = None
    """Processes that read and write; none: one for each core."""
    overwrite: bool = False
    """Replace a set that is there."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key, the rule and the value."""
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} is not in [0, 1): set the share that is held out, such as 0.1")
        if self.samples_per_shard is not None and self.megabytes_per_shard is not None:
            raise ValueError("samples_per_shard and megabytes_per_shard are both set: leave one of them out")
        for name in ("samples_per_shard", "megabytes_per_shard", "processes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} is not above 0: set it higher or leave it out")

    def source_options(self) -> dict[str, Any]:
        """The options of this kind of source; ValueError for one that belongs to another kind."""
        of_kind = {"celeba": ("label_attribute",), "parquet": ("image_column", "label_column", "caption_column")}
        for kind, names in of_kind.items():
            wrong = [name for name in names if kind != self.kind and getattr(self, name) is not None]
            if wrong:
                raise UserError(f"{wrong[0]} is an option of kind={kind}, not of kind={self.kind}: leave it out")
        return {name: getattr(self, name) for name in of_kind.get(self.kind, ())}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, pack, and print the summary."""
    pack(parse(PackConfig, argv, prog="python -m data.pack SOURCE OUT", positional=("source", "out")))


def pack(config: PackConfig, *, show_progress: bool = True) -> dict[str, list[ShardRecord]]:
    """Pack, and give the shards of each split. UserError for what the user can mend."""
    options, shards = config.source_options(), ShardWriter(config.out)
    if not config.overwrite:
        # Listing a large source takes long: what can be refused without is refused first.
        shards.refuse_finished(f"{name}.json" for name in source_class(config.kind).certain_splits(config.source))
    source = open_source(config.kind, config.source, options)
    splits = chosen_splits(source, config)
    shards.begin(plan(source, config), [f"{name}.json" for name in splits], overwrite=config.overwrite)
    jobs = [job for name, numbers in splits.items() for job in cut(source, name, numbers, config)]
    total = sum(len(job.numbers) for job in jobs)
    done = {job.shard: record for job in jobs if (record := shards.finished(job.shard)) is not None}
    kept = sum(len(job.numbers) for job in jobs if job.shard in done)
    if kept and show_progress:
        print(f"going on with {config.out}: {len(done)} of {len(jobs)} shards are there", file=sys.stderr)
    left = [job for job in jobs if job.shard not in done]
    with Progress("pack", total, unit="samples", start=kept, enabled=show_progress) as bar:
        for job, record in pack_shards(
            source, left, config.out, config.convert, config.processes or os.cpu_count() or 1
        ):
            done[job.shard] = record
            bar.advance(len(job.numbers))
    written = {name: [done[job.shard] for job in jobs if job.split == name] for name in splits}
    publish(shards, source, written, config)
    if show_progress:
        print(summary(written, config.out), file=sys.stderr)
    return written


def plan(source: Source, config: PackConfig) -> dict[str, Any]:
    """What a restart must have in common with the start."""
    same = dataclasses.asdict(config)
    for name in ("out", "processes", "overwrite"):
        same.pop(name)
    return {**same, "source": os.path.abspath(config.source), "samples": len(source), "files": source.fingerprint()}  # noqa: PTH100


def chosen_splits(source: Source, config: PackConfig) -> dict[str, np.ndarray]:
    """Split name → numbers of its samples in the order they are packed."""
    splits = dict(source.splits)
    if config.held_out:
        if "train" not in splits or "held_out" in splits:
            raise UserError(f"held_out={config.held_out} needs a `train` split and no `held_out` one, but there are "
                            f"{', '.join(splits)}: leave it out")  # fmt: skip
        train = splits["train"]
        kept, out = split(source.labels[train], config.held_out, config.seed)
        splits |= {"train": train[kept], "held_out": train[out]}
    ordered = {name: _order(source, numbers, config) for name, numbers in splits.items()}
    return {name: numbers for name, numbers in ordered.items() if len(numbers)}


def _order(source: Source, numbers: np.ndarray, config: PackConfig) -> np.ndarray:
    """The numbers, shuffled if asked for; where samples come in groups, groups among each other and within."""
    if not config.shuffle:
        return numbers
    mixed = numbers[shuffled(len(numbers), config.seed)]
    if source.groups is None:
        return mixed
    rank = shuffled(int(source.groups.max()) + 1, config.seed)
    return mixed[np.argsort(rank[source.groups[mixed]], kind="stable")]


def cut(source: Source, name: str, numbers: np.ndarray, config: PackConfig) -> list[Job]:
    """The shards of a split."""
    if config.megabytes_per_shard is None:
        parts = cut_by_count(len(numbers), config.samples_per_shard or 1000)
    else:
        if config.convert.keeps_bytes and source.sizes is not None:
            sizes = source.sizes[numbers]
        else:
            sizes = np.full(len(numbers), encoded_size(source, numbers, config.convert))
        parts = cut_by_bytes(sizes + SAMPLE_OVERHEAD, int(config.megabytes_per_shard * 1e6))
    return [Job(name, f"{name}-{i:06d}.tar", numbers[part.start : part.stop]) for i, part in enumerate(parts)]


def publish(shards: ShardWriter, source: Source, written: dict[str, list[ShardRecord]], config: PackConfig) -> None:
    """Write the indexes and the lists of what was left out. UserError where nothing could be packed."""
    indexes, files = {}, {}
    for name, records in written.items():
        filled = [record for record in records if record.nsamples]
        if not filled:
            raise UserError(f"no sample of {name} could be packed: {_reasons(records)}; check source and kind")
        counts: collections.Counter[str] = collections.Counter()
        for record in records:
            counts.update(record.notes["counts"])
        about = {"kind": config.kind, "counts": [counts[str(i)] for i in range(len(source.classes))]}
        indexes[f"{name}.json"] = shards.index(
            filled,
            name=f"{config.name or shards.folder.resolve().name}-{name}",
            classes=source.classes,
            licence=config.licence,
            meta={**source.meta, **about},
        )
        skipped = [entry for record in records for entry in record.notes["skipped"]]
        if skipped:
            files[f"{name}.skipped.json"] = json.dumps(dict(skipped), indent=1, ensure_ascii=False) + "\n"
    for records in written.values():
        for record in records:
            if not record.nsamples:
                (shards.folder / record.url).unlink(missing_ok=True)
    shards.finish(indexes, files)


def summary(written: dict[str, list[ShardRecord]], out: str) -> str:
    """What was packed, and what was left out and why."""
    lines = []
    for name, records in written.items():
        samples, size = sum(r.nsamples for r in records), sum(r.filesize for r in records if r.nsamples)
        full = sum(1 for r in records if r.nsamples)
        lines.append(f"{name}: {samples} samples in {full} shards, {size / 1e6:.1f} MB, index {out}/{name}.json")
        if reasons := _reasons(records):
            lines.append(f"  left out: {reasons}; all of them in {out}/{name}.skipped.json")
    return "\n".join(lines)


def _reasons(records: Sequence[ShardRecord]) -> str:
    """`3 no bytes (a/1, a/7, …), 1 …`: how many samples were skipped for each reason, with examples."""
    of: dict[str, list[str]] = {}
    for record in records:
        for key, why in record.notes["skipped"]:
            of.setdefault(why, []).append(key)
    shown = sorted(of.items(), key=lambda item: -len(item[1]))
    return ", ".join(
        f"{len(keys)} {why} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" for why, keys in shown[:10]
    )


if __name__ == "__main__":
    run(main)
