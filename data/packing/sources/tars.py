"""Existing WebDataset tars, to be re-sharded: read by byte offset, with all members."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.media import media_of
from data.packing.sources.base import Raw, Source, place
from data.packing.sources.split_names import SplitNames
from data.shards.compressed import open_shard
from data.shards.index import ShardIndex
from data.shards.layout import Layout
from data.shards.loading import load_index
from data.shards.locations import is_remote
from data.shards.patterns import find_tars
from data.shards.sample import DamagedSampleError, picture_member, read_sample
from data.shards.scanning import build_index, index_samples
from launch.command.cli import UserError, reason
from launch.command.cores import cores

_CONNECTIONS = 16


class TarSource(Source):
    """An index file, a folder of tars, one tar, or a quoted pattern of tars; each here or in a bucket.

    Class names come from an index, else from labels that are words. Labels are the samples' `cls` members, read with
    the sample. `picture`, `keys` and `media` are the settings of `data.index`.
    """

    about = "an index or tars, to be re-sharded"
    options = ("splits", "picture", "keys", "media", "captions")

    def __init__(
        self,
        source: str,
        splits: Mapping[str, str] | None = None,
        picture: Sequence[str] | None = None,
        keys: Literal["first_dot", "last_dot"] | None = None,
        media: str | None = None,
        captions: str | None = None,
    ) -> None:
        super().__init__()
        self.captions = read_captions(captions) if captions else {}
        self.media = media or self.media
        wanted = tuple(name.lstrip(".").lower() for name in picture or ())
        index = self._index(source, Layout(keys or "first_dot", wanted))
        assert index.offsets is not None, "they are made where there are none"
        self.remote = index.remote
        self.index, self.offsets = index, index.offsets
        if media not in (None, index.kind):
            raise UserError(f"media={media} is not what source={source} holds, {index.kind}: leave it out")
        self.media = index.kind
        self.members, self.picture = media_of(index.kind).members, index.layout.picture
        self.classes = list(index.classes)
        self.first = np.concatenate([[0], np.cumsum(index.sizes, dtype=np.int64)])
        self.splits = self._splits(source, SplitNames(splits))
        self.labels = np.full(int(self.first[-1]), -1, dtype=np.int64)
        self.captioned = len(self) if self.captions else 0
        self.sizes = np.concatenate([self._sizes(i) for i in range(len(index.shards))])
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

    def _index(self, source: str, layout: Layout) -> ShardIndex:
        """The tars' index: the given one where it says which members are the pictures, else a new one."""
        tars, about = list[str](), dict[str, Any]()
        if source.partition("#")[0].endswith(".json"):
            index = load_index(source)
            settled = index.kind != "pictures" or (bool(index.layout.picture) and layout == Layout())
            if settled and index.offsets is not None:
                return index
            tars = [index.location(i) for i in range(len(index.shards))]
            if settled:  # of remote shards the offsets are not always there
                return replace(index, offsets=build_index(tars, threads=_CONNECTIONS).offsets)
            about = {"classes": index.classes, "name": index.name, "licence": index.licence}
        else:
            about = {"classes": _classes_beside(Path(source))}
        tars = tars or find_tars(source, key="source")
        threads = _CONNECTIONS if any(map(is_remote, tars)) else cores()
        index, tally = index_samples(tars, layout=layout, threads=threads, kind=self.media, **about)
        self.foreseen = Counter({what: tally.taken.pop(what, 0) for what in ("labels", "captions")})
        tally.taken.clear()  # packing counts what it packs
        self.tally += tally
        return index

    def _sizes(self, shard: int) -> np.ndarray:
        """Bytes of a shard's samples, with what lies apart."""
        sizes = np.diff(self.offsets.of_shard(shard))
        for position, pieces in self.offsets.pieces(shard).items():
            sizes[position] += sum(last - first for first, last in pieces)
        return sizes

    def names(self) -> Iterable[str]:
        """The tars."""
        return [shard.url for shard in self.index.shards]

    def read(self, number: int) -> Raw:
        """A sample with all its members."""
        shard = int(np.searchsorted(self.first, number, side="right")) - 1
        position, layout = number - int(self.first[shard]), self.index.layout
        stretches = [self.offsets.extent(shard, position), *self.offsets.pieces(shard).get(position, ())]
        sample = read_sample(b"".join(self._open(shard).read(*stretch) for stretch in stretches), layout)
        number_of_class = self.index.label_of(sample)
        files = {name: bytes(contents) for name, contents in sample.files.items() if name not in ("cls", "")}
        if self.media == "pictures":
            member = picture_member(sample)
        else:
            listed = (*layout.picture, *files)
            member = next((name for name in listed if name in files and name.rpartition(".")[2] in self.members), "")
        encoded = bytes(sample.files[member]) if member in sample.files else None
        if encoded is None:
            raise DamagedSampleError(f"no {self.media} among {', '.join(files)}")
        files.pop(member, None)
        if text := self.captions.get(sample.key):
            files["txt"] = text.encode()
        return Raw(key=sample.key, encoded=encoded, label=number_of_class, members=files, member=member)


def read_captions(path: str) -> dict[str, str]:
    """The captions by the samples' keys in a JSON object; UserError where the file is none."""
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
            raise ValueError("it is not an object of texts by keys")
    except (OSError, ValueError) as error:
        raise UserError(f"captions={path} can't be read: {reason(error)}") from error
    return found


def _classes_beside(folder: Path) -> list[str]:
    """The classes that all indexes in a folder of tars name alike; none where there is no index, or they differ."""
    found = set()
    for file in folder.glob("*.json") if folder.is_dir() else ():
        with contextlib.suppress(UserError):  # of another kind
            found.add(tuple(load_index(str(file)).classes))
    return list(found.pop()) if len(found) == 1 else []
