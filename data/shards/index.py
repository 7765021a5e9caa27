"""The shard index: which tars a set consists of, how many samples each holds, and what they are."""

from __future__ import annotations

import json
import os
import posixpath
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.remote.writing import write
from data.shards.layout import GENERAL, Layout
from data.shards.locations import beside, is_remote
from data.shards.offsets import SUFFIX, ShardOffsets
from data.shards.sample import Sample, label
from launch.command.cli import UserError
from launch.files.atomic import write_file

KIND = "wids-shard-index-v1"


@dataclass(frozen=True)
class Shard:
    """One tar."""

    url: str
    """Path or URL; a relative one counts from the index file."""
    nsamples: int
    filesize: int | None = None
    """Bytes; None where it isn't known."""
    sha256: str | None = None
    """Hash of the file's content, hexadecimal; None where it isn't known."""


@dataclass(frozen=True)
class ShardIndex:
    """A set of shards. `build_index` makes one from tars; `load_index` reads and `save` writes the JSON."""

    shards: tuple[Shard, ...]
    """The tars, in index order."""
    name: str = ""
    classes: list[str] = field(default_factory=list)
    """Class names; a sample's label counts into them. Empty: no labels."""
    labels: tuple[int, ...] = ()
    """What the number of each class in the shards becomes, where `classes` are another set's (data.shards.classes)."""
    licence: str = ""
    """Licence of the samples, or where its text is."""
    kind: str = "pictures"
    """Kind of the samples, as in `data.media.KINDS`."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Further facts about the set; of codes: tokenizer, transform, codebook_size, grid, …"""
    base: str = ""
    """Folder or URL that the shards' urls are relative to: where the index was loaded from."""
    path: str = ""
    """The local file it was loaded from, if any."""
    layout: Layout = GENERAL
    """Which members of the tars make samples, and which of them is the picture."""
    offsets: ShardOffsets | None = field(default=None, repr=False, compare=False)
    """Where the samples are in the shards; None if not loaded, or for remote shards without an offsets file."""

    def __len__(self) -> int:
        return sum(shard.nsamples for shard in self.shards)

    @property
    def sizes(self) -> list[int]:
        """Samples in each shard."""
        return [shard.nsamples for shard in self.shards]

    def label_of(self, sample: Sample) -> int:
        """A sample's label, -1 without one; DamagedSampleError for one outside the classes, if there are any."""
        if self.layout.labels == "names":  # which are those of the other set, too
            return label(sample, len(self.classes), self.classes)
        number = label(sample, len(self.labels or self.classes))
        return self.labels[number] if self.labels and number >= 0 else number

    def class_name(self, label: int) -> str:
        """Name of a class; its number where it has none."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)

    def location(self, shard: int) -> str:
        """Path or URL of a shard, from where the process runs."""
        url = self.shards[shard].url
        if url.startswith("file://"):
            return url.removeprefix("file://")
        return url if is_remote(url) or not self.base else posixpath.join(self.base, url)

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and position in it of samples by their number in the set, int64 (n,) each."""
        first = np.concatenate([[0], np.cumsum(self.sizes)])
        shard = np.searchsorted(first, numbers, side="right") - 1
        return shard, numbers - first[shard]

    @property
    def remote(self) -> bool:
        """Whether any shard is behind a URL."""
        return any(is_remote(self.location(i)) for i in range(len(self.shards)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON to a path or into a bucket, and the offsets beside it if there are any; each atomically."""
        if is_remote(place := os.fspath(path)):
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / "index.json"
                self.save(local)
                if self.offsets is not None:
                    write(beside(place, SUFFIX), offsets_path(local))
                write(place, local)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.offsets is not None:
            self.offsets.save(offsets_path(path))
        write_file(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")

    def to_json(self) -> dict[str, Any]:
        """The contents of the file."""
        return {
            "__kind__": KIND,
            "wids_version": 1,
            "name": self.name,
            "kind": self.kind,
            "classes": self.classes,
            "licence": self.licence,
            "meta": self.meta,
            **({} if self.layout.former else {"members": self.layout.to_json()}),
            "shardlist": [
                {key: value for key, value in asdict(shard).items() if value is not None} for shard in self.shards
            ],
        }

    @classmethod
    def from_json(cls, values: Any, base: str, source: str) -> ShardIndex:
        """The index in a parsed file, which `source` names in errors; UserError if it isn't one."""
        if not isinstance(values, dict) or not isinstance(values.get("shardlist"), list):
            raise UserError(
                f"{source} is not a shard index: it has no `shardlist`; make one with `python -m data.index`"
            )
        if values.get("__kind__", KIND) != KIND:
            raise UserError(
                f"{source} is of kind {values['__kind__']}, not {KIND}: make one with `python -m data.index`"
            )
        try:
            listed = values["shardlist"]
            shards = tuple(
                Shard(str(s["url"]), int(s["nsamples"]), *map(s.get, ("filesize", "sha256"))) for s in listed
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{source} has a shard without url or nsamples ({error}): make the index again") from error
        if any(shard.nsamples < 0 for shard in shards):
            raise UserError(f"{source} has a shard with fewer than 0 samples: make the index again")
        for key, kind in (("classes", list), ("meta", dict)):
            if not isinstance(values.get(key) or kind(), kind):
                raise UserError(f"{source} has a {key} that is no {kind.__name__}: make the index again")
        # Ours without `members` were made before there were layouts; other tools' lack our keys.
        layout = Layout(former="meta" in values)
        if "members" in values:
            try:
                layout = Layout.from_json(values["members"])
            except (AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{source} has unknown `members` ({error}): was it made by a newer version?") from error
        return cls(
            shards=shards,
            layout=layout,
            name=str(values.get("name", "")),
            classes=list(values.get("classes") or []),
            licence=str(values.get("licence", "")),
            kind=str(values.get("kind", "pictures")),
            meta=dict(values.get("meta") or {}),
            base=base,
        )

    def only(self, shard: int) -> ShardIndex:
        """An index of one of its shards, whose quarantine list still counts."""
        offsets = self.offsets and self.offsets.of_shards([shard])
        return replace(self, shards=(self.shards[shard],), offsets=offsets)


def offsets_path(path: Path) -> Path:
    """File of the offsets of the index at `path`: `train.json` → `train.offsets.npz`."""
    return path.with_name(path.name.removesuffix(".json") + SUFFIX)
