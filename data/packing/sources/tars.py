"""Existing WebDataset tars, to be re-sharded: read by byte offset, with all members."""

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.media import media_of
from data.packing.sources.base import Raw, Source, place
from data.packing.sources.split_names import SplitNames
from data.remote.stores import in_bucket
from data.shards.compressed import open_shard
from data.shards.loading import load_index
from data.shards.locations import is_remote
from data.shards.sample import DamagedSampleError, label, read_sample
from data.shards.scanning import build_index, find_tars
from launch.command.cli import UserError

_CONNECTIONS = 16


class TarSource(Source):
    """An index file, a folder of tars, one tar, or a quoted pattern of tars; each here or in a bucket.

    Class names come from an index. Labels are the samples' `cls` members, read with the sample.
    """

    about = "an index or tars, to be re-sharded"
    options = ("splits",)

    def __init__(self, source: str, splits: Mapping[str, str] | None = None) -> None:
        super().__init__()
        if source.partition("#")[0].endswith(".json"):
            index = load_index(source)
        else:
            index = build_index(_tars(source), threads=_CONNECTIONS if is_remote(source) else os.cpu_count() or 1)
        if index.offsets is None:  # of remote shards they are not always there
            tars = [index.location(i) for i in range(len(index.shards))]
            index = replace(index, offsets=build_index(tars, threads=_CONNECTIONS).offsets)
        assert index.offsets is not None, "they were just made"
        self.remote = index.remote
        self.index, self.offsets, self.media = index, index.offsets, index.kind
        self.members = media_of(index.kind).members
        self.classes = list(index.classes)
        self.first = np.concatenate([[0], np.cumsum(index.sizes, dtype=np.int64)])
        self.splits = self._splits(source, SplitNames(splits))
        self.labels = np.full(int(self.first[-1]), -1, dtype=np.int64)
        self.sizes = np.concatenate([np.diff(self.offsets.of_shard(i)) for i in range(len(index.shards))])
        self._open = lru_cache(64)(lambda shard: open_shard(index.location(shard)))

    def _splits(self, source: str, names: SplitNames) -> dict[str, np.ndarray]:
        """The samples of each split, by the name of the index (or its #split), or by those of the tars."""
        path, _, part = source.partition("#")
        if path.endswith(".json"):
            name = part or Path(path).name
            split_of = [names.assign([name], self.tally, source).get(name)] * len(self.index.shards)
        else:
            tars = [self.index.location(i) for i in range(len(self.index.shards))]
            top = os.path.commonpath([os.path.dirname(tar) for tar in tars])  # noqa: PTH120
            below = [os.path.relpath(tar, top) for tar in tars]
            found = names.assign(below, self.tally, source)
            split_of = [found.get(name) for name in below]
        of_sample = np.repeat(np.array([split or "" for split in split_of]), self.index.sizes)
        return {split: np.flatnonzero(of_sample == split) for split in dict.fromkeys(filter(None, split_of))}

    def overlaps(self, out: Path) -> bool:
        """Whether a tar lies in `out`, where a shard of its name would replace it."""
        return any(place(self.index.location(i)).parent == out for i in range(len(self.index.shards)))

    def names(self) -> Iterable[str]:
        """The tars."""
        return [shard.url for shard in self.index.shards]

    def read(self, number: int) -> Raw:
        """A sample with all its members."""
        shard = int(np.searchsorted(self.first, number, side="right")) - 1
        extent = self.offsets.extent(shard, number - int(self.first[shard]))
        sample = read_sample(self._open(shard).read(*extent))
        number_of_class = label(sample, len(self.classes))
        files = {name: bytes(contents) for name, contents in sample.files.items() if name != "cls"}
        member = next((name for name in files if name.rpartition(".")[2] in self.members), None)
        if member is None:
            raise DamagedSampleError(f"no {self.media} among {', '.join(files)}")
        return Raw(key=sample.key, encoded=files.pop(member), label=number_of_class, members=files)


def _tars(source: str) -> list[str]:
    if is_remote(source):
        return find_tars(f"{source.rstrip('/')}/*.tar" if in_bucket(source) and ".tar" not in source else source)
    path = Path(source)
    if path.is_dir():
        tars = [str(p) for p in sorted(path.iterdir()) if p.name.endswith((".tar", ".tar.gz", ".tgz"))]
    else:
        tars = sorted(glob.glob(source))  # noqa: PTH207 (the pattern may be absolute)
    if not tars:
        raise UserError(f"source={source} matches no tars: give an index, a folder of tars or a quoted pattern")
    return tars
