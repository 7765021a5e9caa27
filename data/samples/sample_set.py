"""One sample set on its way into shards."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.packing.splits import cut_evenly, shuffled, split
from data.shards.writer import ShardWriter
from launch.command.progress import progress

SEED = 2026


@dataclass(frozen=True)
class SampleSet:
    """Samples with keys and labels, before they are split and packed."""

    name: str
    classes: list[str]
    source: str
    licence_text: str
    keys: list[str]
    labels: np.ndarray
    extension: str
    encode: Callable[[int], bytes]
    train_shards: int
    kind: str = "pictures"
    licence: str = "MIT, see LICENSE"
    captions: list[str] = field(default_factory=list)
    held_out: np.ndarray | None = None
    """bool (N,): the held-out samples. None: a tenth of each class."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Further facts, for the index."""

    def splits(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the training samples and of those held out."""
        if self.held_out is None:
            return split(self.labels, 0.1, SEED)
        return np.flatnonzero(~self.held_out), np.flatnonzero(self.held_out)


def write(samples: SampleSet, out: Path, *, overwrite: bool) -> None:
    """Split off the held-out samples, shuffle, and write shards, index and licence to `out`/name."""
    shards = ShardWriter(out / samples.name)
    plan = {"set": samples.name, "source": samples.source, "seed": SEED, "samples": len(samples.keys)}
    shards.begin(plan, ["train.json", "held_out.json"], overwrite=overwrite)
    train, held_out = samples.splits()
    indexes = {}
    for name, chosen, count in (("train", train, samples.train_shards), ("held_out", held_out, 2)):
        chosen = chosen[shuffled(len(chosen), SEED)]
        parts = list(enumerate(cut_evenly(len(chosen), count)))
        written = [
            shards.write(f"{name}-{i:06d}.tar.gz", _samples(samples, chosen[part.start : part.stop]))
            for i, part in progress(parts, f"{samples.name} {name}", unit="shards")
        ]
        counts = np.bincount(samples.labels[chosen], minlength=len(samples.classes)).tolist()
        indexes[f"{name}.json"] = shards.index(
            written,
            name=f"{samples.name}-{name}",
            kind=samples.kind,
            classes=samples.classes,
            licence=samples.licence,
            meta={"source": samples.source, "counts": counts, **samples.meta},
        )
    shards.finish(indexes, {"LICENSE": samples.licence_text})


def _samples(samples: SampleSet, chosen: np.ndarray) -> Iterator[tuple[str, dict[str, bytes]]]:
    for i in chosen.tolist():
        members = {samples.extension: samples.encode(i), "cls": str(samples.labels[i]).encode()}
        if samples.captions:
            members["txt"] = samples.captions[i].encode()
        yield samples.keys[i], members
