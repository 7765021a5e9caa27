"""The shard index: which tars a set consists of, how many samples each holds, and what they are.

The file is wids' JSON (`wids-shard-index-v1`) with our keys beside its own; byte offsets lie in a small file beside it
(`data.shards.offsets`). The command `python -m data.index` makes one from bare tars.
"""

from __future__ import annotations

import json
import os
import posixpath
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.shards.offsets import SUFFIX, ShardOffsets
from launch.command.cli import UserError, parse, run

KIND = "wids-shard-index-v1"


@dataclass(frozen=True)
class Shard:
    """One tar."""

    url: str
    """Path or URL; a relative one counts from the index file."""
    nsamples: int
    """Samples in it."""
    filesize: int | None = None
    """Bytes; None where it isn't known."""


@dataclass(frozen=True)
class ShardIndex:
    """A set of shards. `ShardIndex.build` makes one from tars, `load` and `save` read and write the JSON."""

    shards: tuple[Shard, ...]
    """The tars, in index order."""
    name: str = ""
    """Name of the set."""
    classes: list[str] = field(default_factory=list)
    """Class names; a sample's label counts into them. Empty: no labels."""
    licence: str = ""
    """Licence of the samples, or where its text lies."""
    kind: str = "pictures"
    """`pictures` or `codes`."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What else belongs to the set; of codes: tokenizer, transform, codebook_size, grid, …"""
    base: str = ""
    """Folder or URL that the shards' urls are relative to; where the index was loaded from."""
    path: str = ""
    """The local file it was loaded from, if any."""
    offsets: ShardOffsets | None = field(default=None, repr=False, compare=False)
    """Where the samples lie in the shards; None until built, or of remote shards without an offsets file."""

    def __len__(self) -> int:
        return sum(shard.nsamples for shard in self.shards)

    @property
    def sizes(self) -> list[int]:
        """Samples in each shard."""
        return [shard.nsamples for shard in self.shards]

    def location(self, shard: int) -> str:
        """Path or URL of a shard, from where the process runs."""
        return _joined(self.base, self.shards[shard].url)

    @property
    def remote(self) -> bool:
        """Whether any shard lies behind a URL."""
        return any(is_remote(self.location(i)) for i in range(len(self.shards)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ShardIndex:
        """Read an index (ours, wids', or the Hub's `_info.json`) from a path or URL, and its offsets if they are there.

        Offsets of local shards are made, and kept beside the index, where they are missing or don't fit. UserError for
        a file that is no index and for a missing shard.
        """
        from data.shards.loading import load_index

        return load_index(os.fspath(path))

    @classmethod
    def build(
        cls,
        tars: Sequence[str | os.PathLike[str]],
        *,
        threads: int = 2,
        base: str | os.PathLike[str] = "",
        show_progress: bool = False,
        **about: Any,
    ) -> ShardIndex:
        """Index bare tars, in their order, from their headers alone, several at a time.

        `about` are further fields (name, classes, licence, kind, meta). Local urls are stored relative to `base`, the
        folder the index will lie in. UserError for a missing, damaged or empty tar.
        """
        from data.shards.loading import build_index

        return build_index([os.fspath(tar) for tar in tars], threads, os.fspath(base), show_progress, about)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON, and the offsets beside it if there are any; each whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.offsets is not None:
            self.offsets.save(offsets_path(path))
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)

    def to_json(self) -> dict[str, Any]:
        """The file's contents."""
        shards: list[dict[str, Any]] = []
        for shard in self.shards:
            entry: dict[str, Any] = {"url": shard.url, "nsamples": shard.nsamples}
            if shard.filesize is not None:
                entry["filesize"] = shard.filesize
            shards.append(entry)
        return {
            "__kind__": KIND,
            "wids_version": 1,
            "name": self.name,
            "kind": self.kind,
            "classes": self.classes,
            "licence": self.licence,
            "meta": self.meta,
            "shardlist": shards,
        }

    @classmethod
    def from_json(cls, values: Any, base: str, source: str) -> ShardIndex:
        """The index in a parsed file (`source` names it in errors); UserError if it isn't one."""
        if not isinstance(values, dict) or not isinstance(values.get("shardlist"), list):
            raise UserError(
                f"{source} is not a shard index: it has no `shardlist`; make one with `python -m data.index`"
            )
        if values.get("__kind__", KIND) != KIND:
            raise UserError(
                f"{source} is of kind {values['__kind__']}, not {KIND}: make one with `python -m data.index`"
            )
        try:
            shards = tuple(Shard(str(s["url"]), int(s["nsamples"]), s.get("filesize")) for s in values["shardlist"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{source} has a shard without url or nsamples ({error}): make the index anew") from error
        if any(shard.nsamples < 0 for shard in shards):
            raise UserError(f"{source} has a shard with fewer than 0 samples: make the index anew")
        for key, kind in (("classes", list), ("meta", dict)):
            if not isinstance(values.get(key) or kind(), kind):
                raise UserError(f"{source} has a {key} that is no {kind.__name__}: make the index anew")
        return cls(
            shards=shards,
            name=str(values.get("name", "")),
            classes=list(values.get("classes") or []),
            licence=str(values.get("licence", "")),
            kind=str(values.get("kind", "pictures")),
            meta=dict(values.get("meta") or {}),
            base=base,
        )

    def with_offsets(self, offsets: ShardOffsets | None) -> ShardIndex:
        """The same index with other offsets."""
        return replace(self, offsets=offsets)


def is_remote(location: str) -> bool:
    """Whether a location is a URL (or a `pipe:` command) rather than a path."""
    return ("://" in location and not location.startswith("file://")) or location.startswith("pipe:")


def offsets_path(path: Path) -> Path:
    """Where the offsets of the index at `path` lie: `train.json` → `train.offsets.npz`."""
    return path.with_name(path.name.removesuffix(".json") + SUFFIX)


def _joined(base: str, url: str) -> str:
    if url.startswith("file://"):
        return url.removeprefix("file://")
    if is_remote(url) or os.path.isabs(url) or not base:  # noqa: PTH117
        return url
    return posixpath.join(base, url)


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Index bare WebDataset tars, or turn the Hub's `_info.json` into an index, without decoding anything."""

    pattern: str
    """Tars: a path or URL with * and {000..127}; or an `_info.json`, `#split` at its end. The first word."""
    out: str
    """The index file to write; the second word."""
    name: str = ""
    """Name of the set."""
    classes: str | None = None
    """A text file with the class names, one a line."""
    licence: str = ""
    """Licence of the samples, or where its text lies."""
    threads: int = 8
    """Tars looked into at a time."""
    overwrite: bool = False
    """Replace an index that is there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, write the index."""
    from data.shards.loading import command
    from launch.command.words import as_options

    words = list(sys.argv[1:] if argv is None else argv)
    prog = "python -m data.index PATTERN OUT.json"
    return command(parse(IndexConfig, as_options(words, ("pattern", "out"), IndexConfig), prog=prog))


if __name__ == "__main__":
    run(main)
