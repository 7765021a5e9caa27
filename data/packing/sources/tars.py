"""Existing WebDataset tars, to be re-sharded: read by byte offset, with all members."""

import glob
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.media import media_of
from data.packing.sources.base import Raw, Source
from data.shards.compressed import OpenShard
from data.shards.loading import load_index
from data.shards.sample import DamagedSampleError, label, read_sample
from data.shards.scanning import build_index
from launch.command.cli import UserError


class TarSource(Source):
    """An index file, a folder of tars, one tar, or a quoted glob pattern of local tars.

    Class names come from an index. Labels are the samples' `cls` members, read with the sample.
    """

    about = "an index or tars, to be re-sharded"

    def __init__(self, source: str) -> None:
        super().__init__()
        if source.endswith(".json"):
            index = load_index(source)
            if index.remote:
                raise UserError(f"source={source} lists remote shards: copy them to this machine first")
        else:
            index = build_index(_tars(source), threads=os.cpu_count() or 1)
        assert index.offsets is not None, "local shards have offsets"
        self.index, self.offsets, self.media = index, index.offsets, index.kind
        self.members = media_of(index.kind).members
        self.classes = list(index.classes)
        self.first = np.concatenate([[0], np.cumsum(index.sizes, dtype=np.int64)])
        self.splits = {"train": np.arange(int(self.first[-1]))}
        self.labels = np.full(int(self.first[-1]), -1, dtype=np.int64)
        self.sizes = np.concatenate([np.diff(self.offsets.of_shard(i)) for i in range(len(index.shards))])
        self._open = lru_cache(64)(lambda shard: OpenShard(index.location(shard)))

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
    path = Path(source)
    if path.is_dir():
        tars = [str(p) for p in sorted(path.iterdir()) if p.name.endswith((".tar", ".tar.gz", ".tgz"))]
    else:
        tars = sorted(glob.glob(source))  # noqa: PTH207 (the pattern may be absolute)
    if not tars:
        raise UserError(f"source={source} matches no tars: give an index, a folder of tars or a quoted pattern")
    return tars
