"""What a pack took and left out: at listing, and when it is done."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.packing.sources.base import Source
from data.packing.sources.listing import one
from data.shards.tally import Tally
from data.shards.writer import ShardRecord


def listed(source: Source, splits: Mapping[str, np.ndarray]) -> Tally:
    """What is known before anything is read: as if all that is listed were taken."""
    tally = _labels(source, splits)
    tally.took(source.media, sum(map(len, splits.values())))
    tally.took("captions", source.captioned)
    tally.took("labels", int(sum((source.labels[numbers] >= 0).sum() for numbers in splits.values())))
    tally.taken.update(source.foreseen)
    return source.tally + tally


def packed(source: Source, splits: Mapping[str, np.ndarray], written: Mapping[str, Sequence[ShardRecord]]) -> Tally:
    """What was packed and what wasn't, of listing and reading."""
    tally = source.tally
    for records in written.values():
        for record in records:
            tally = tally + Tally.from_json(record.notes.get("tally", {}))
    return tally + _labels(source, splits) + _labels_read(source, written)


def _labels_read(source: Source, written: Mapping[str, Sequence[ShardRecord]]) -> Tally:
    """Samples without a label among others that have one, where labels are only known when samples are read."""
    tally = Tally()
    for records in written.values() if not (source.labels >= 0).any() else ():
        without = [(record.url, record.notes["counts"].get("-1", 0)) for record in records]
        if sum(count for _, count in without) < sum(record.nsamples for record in records):
            for shard, count in without:
                if count:
                    tally.left_out("no label", f"in {shard}", of="labels", count=count)
    return tally


def _labels(source: Source, splits: Mapping[str, np.ndarray]) -> Tally:
    """Samples without a label among others that have one; a split without any label is noted only."""
    tally = Tally()
    for name, numbers in splits.items():
        without = numbers[source.labels[numbers] < 0]
        if not (source.labels >= 0).any() or not len(without):
            continue
        if len(without) == len(numbers):
            tally.noted("a split without labels", name)
        else:
            example = int(without.min())
            key = source.paths[example] if source.paths else f"sample {example}"
            tally.left_out("no label", key, of="labels", count=len(without))
    for label in _untrained(source, splits):
        tally.noted(f"classes of other splits without a {one(source.media)} in train", source.classes[label])
    return tally


def _untrained(source: Source, splits: Mapping[str, np.ndarray]) -> list[int]:
    """Labels that occur, but not in a labelled `train`: a prior on it can't learn them."""
    if "train" not in splits or not (source.labels[splits["train"]] >= 0).any():
        return []
    found = np.setdiff1d(
        np.concatenate([source.labels[numbers] for numbers in splits.values()]), source.labels[splits["train"]]
    )
    return [int(label) for label in found if label >= 0]
