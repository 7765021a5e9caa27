"""Which samples go into which split and shard, in what order: pure functions, the same on every machine.

The shuffle is a hash of (seed, position), not a library's generator: another version of numpy packs the same bytes.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from data.packing.sources.base import Source
from launch.command.cli import UserError

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def shuffled(count: int, seed: int) -> np.ndarray:
    """A permutation of range(count), int64: by SplitMix64's output function (Steele et al. 2014) of seed and number."""
    with np.errstate(over="ignore"):
        start = np.uint64((seed * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D) % 2**64)
        bits = np.arange(1, count + 1, dtype=np.uint64) * _STEP ^ start
        for shift, factor in zip((30, 27), _MIX, strict=True):
            bits = (bits ^ (bits >> np.uint64(shift))) * factor
        return np.argsort(bits ^ (bits >> np.uint64(31)), kind="stable")


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions kept and positions held out (both sorted, int64): `share` of all samples, and of each label's.

    Stratified by largest remainder: the total held out is exactly round(share · N), and each label's differs from its
    share by less than one. `seed` decides which samples.
    """
    labels = np.asarray(labels)
    names, label_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = counts * share
    take = np.floor(exact).astype(np.int64)
    missing = round(share * len(labels)) - int(take.sum())
    take[np.argsort(-(exact - take), kind="stable")[:missing]] += 1
    out = np.zeros(len(labels), dtype=bool)
    order = shuffled(len(labels), seed)
    for i in range(len(names)):
        out[order[label_of[order] == i][: take[i]]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def chosen_splits(source: Source, held_out: float, seed: int, *, shuffle: bool) -> dict[str, np.ndarray]:
    """Split name → numbers of its samples in the order they are packed.

    `held_out` is the share of `train` that becomes a split of its own; UserError where that can't be.
    """
    splits = dict(source.splits)
    if held_out:
        if "train" not in splits or "held_out" in splits:
            raise UserError(
                f"held_out={held_out} needs a `train` split and no `held_out` one, but the splits are "
                f"{', '.join(splits)}: leave it out"
            )
        train = splits["train"]
        kept, out = split(source.labels[train], held_out, seed)
        if not len(kept) or not len(out):
            which, share = ("no", f"{1 / len(train):.2g} or more") if not len(out) else ("every", "a smaller share")
            way_out = f"set it to {share}, or leave it out" if len(train) > 1 else "leave it out"
            raise UserError(f"held_out={held_out} of {len(train)} samples of train holds out {which} sample: {way_out}")
        splits |= {"train": train[kept], "held_out": train[out]}
    for name, numbers in splits.items():
        if not len(numbers):
            source.tally.noted("a split without a sample", name)
    ordered = {name: _mixed(source, numbers, seed) if shuffle else numbers for name, numbers in splits.items()}
    return {name: numbers for name, numbers in ordered.items() if len(numbers)}


def _mixed(source: Source, numbers: np.ndarray, seed: int) -> np.ndarray:
    """The numbers, shuffled; where samples come in groups, groups among each other and within."""
    mixed = numbers[shuffled(len(numbers), seed)]
    if source.groups is None:
        return mixed
    rank = shuffled(int(source.groups.max()) + 1, seed)
    return mixed[np.argsort(rank[source.groups[mixed]], kind="stable")]


def cut_by_count(count: int, per_shard: int) -> list[range]:
    """Shards of `per_shard` samples each; the last may be smaller."""
    return [range(start, min(start + per_shard, count)) for start in range(0, count, per_shard)]


def cut_evenly(count: int, shards: int) -> list[range]:
    """`shards` shards whose sizes differ by one at most."""
    edges = [count * i // shards for i in range(shards + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges) if b > a]


def cut_by_bytes(sizes: Sequence[int] | np.ndarray, per_shard: int) -> list[range]:
    """Shards of neighbouring samples of at most `per_shard` bytes together (a larger sample is alone)."""
    ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
    shards, start = [], 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + per_shard, side="right")))
        shards.append(range(start, stop))
        start = stop
    return shards
