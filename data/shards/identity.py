"""What a set of shards is, wherever it lies. Runs, codes, results, references and priors keep it and compare it.

It depends on the names of the shards, their sizes, samples and contents (where the index knows their hashes), on the
classes, the kind and, of codes, on tokenizer, transform and source; not on the folder, and not on the set's name.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from data.shards.index import ShardIndex
from data.shards.locations import is_remote
from launch.command.checks import named
from launch.files.places import is_place, place_name

MADE_FROM = ("tokenizer", "transform", "variants", "crop_range", "precision", "data", "members")
"""What of an index's meta belongs to its identity, where it is there: codes have it. `members` are those of tars that
are the pictures (data.shards.layout)."""
_WORDS = {"data": "set of pictures", "members": "choice of the tars' members"}


class ShardFacts(NamedTuple):
    """One shard."""

    name: str
    """Its file's name, without folder, host and query."""
    samples: int
    size: int | None = None
    """Bytes; None where it isn't known. So is the hash."""
    sha256: str | None = None


@dataclass(frozen=True)
class Identity:
    """A set of shards, apart from where it lies."""

    name: str
    """The set's name, for people."""
    kind: str
    classes: tuple[str, ...]
    shards: tuple[ShardFacts, ...]
    """In index order."""
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """See MADE_FROM."""

    @classmethod
    def of(cls, index: ShardIndex) -> Self:
        """The identity of an index; sizes of local shards that it doesn't state are looked up."""
        shards = tuple(
            ShardFacts(file_name(shard.url), shard.nsamples, _size(index, number), shard.sha256)
            for number, shard in enumerate(index.shards)
        )
        made_from = {key: index.meta[key] for key in MADE_FROM if key in index.meta}
        if index.layout.picture:  # another choice makes other pictures of the same tars
            made_from["members"] = {"keys": index.layout.keys, "picture": list(index.layout.picture)}
        return cls(set_name(index), index.kind, tuple(map(str, index.classes)), shards, made_from)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(shard.samples for shard in self.shards)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for all but the name. Hashes and sizes count where all shards have them."""
        columns: list[Any] = [[shard.name, shard.samples] for shard in self.shards]
        for key in ("size", "sha256"):
            values = [getattr(shard, key) for shard in self.shards]
            columns += [] if None in values else [values]
        text = json.dumps([self.kind, self.classes, dict(self.made_from), columns], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def brief(self) -> dict[str, Any]:
        """What results, cards and priors keep (JSON values): name, kind, samples, number of classes, digest.

        Of codes also `pictures`, the same of what they encode.
        """
        counts = {"samples": self.samples, "classes": len(self.classes)}
        pictures = {"pictures": self.made_from["data"]} if "data" in self.made_from else {}
        return {"name": self.name, "kind": self.kind, **counts, "digest": self.digest, **pictures}

    def to_dict(self) -> dict[str, Any]:
        """All of it (JSON values); `from_dict` reads it back."""
        known = [{key: value for key, value in shard._asdict().items() if value is not None} for shard in self.shards]
        about = {"name": self.name, "kind": self.kind, "digest": self.digest, "classes": list(self.classes)}
        return {**about, "made_from": dict(self.made_from), "shards": known}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The identity that `to_dict` described; KeyError or TypeError for another dictionary."""
        shards = tuple(ShardFacts(**shard) for shard in saved["shards"])
        classes = tuple(saved["classes"])
        return cls(str(saved["name"]), str(saved["kind"]), classes, shards, dict(saved.get("made_from", {})))

    def difference(self, saved: Mapping[str, Any]) -> str:
        """In words, what differs from the identity that `to_dict` described; empty where nothing does.

        What only one of the two knows (a size, a hash, an entry of `made_from`) can't differ.
        """
        before = Identity.from_dict(saved)
        words = [] if self.kind == before.kind else [f"it holds {self.kind}, not {before.kind}"]
        if self.classes != before.classes:
            words.append(f"its classes are {_listed(self.classes)}, they were {_listed(before.classes)}")
        for key in MADE_FROM:
            if {key} <= self.made_from.keys() & before.made_from.keys() and not _same(self, before, key):
                words.append(f"it is of another {_WORDS.get(key, key)}")
        return "; ".join([*words, *_shard_differences(self.shards, before.shards)])


def set_name(index: ShardIndex) -> str:
    """The name of a set as others may see it: the index's own, else its file's; never a path."""
    own = index.name.strip()
    if own and own.count("/") < 2 and not is_place(own):  # ORG/NAME is a name
        return own
    return place_name(own or index.path or index.base)


def name_of(recorded: Any) -> str:
    """The name of a set as a result keeps it: an identity's `brief`, or a path in results from before."""
    if isinstance(recorded, Mapping):
        return str(recorded.get("name", "unnamed"))
    return place_name(str(recorded))


def file_name(url: str) -> str:
    """The name of a shard's file; of a `pipe:` command, which may hold anything, `pipe`."""
    if url.startswith("pipe:"):
        return "pipe"
    return PurePosixPath(urlsplit(url).path if "://" in url else url).name


def _size(index: ShardIndex, number: int) -> int | None:
    stated, location = index.shards[number].filesize, index.location(number)
    if stated is not None or is_remote(location):
        return stated
    try:
        return os.stat(location).st_size  # noqa: PTH116
    except OSError:
        return None


def _same(one: Identity, other: Identity, key: str) -> bool:
    a, b = one.made_from[key], other.made_from[key]
    if isinstance(a, dict) and isinstance(b, dict) and "digest" in a and "digest" in b:
        return bool(a["digest"] == b["digest"])
    return bool(json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))


def _shard_differences(now: tuple[ShardFacts, ...], before: tuple[ShardFacts, ...]) -> list[str]:
    names, former = [shard.name for shard in now], [shard.name for shard in before]
    words = []
    if added := [name for name in names if name not in set(former)]:
        words.append(f"new shards: {named(added)}")
    if gone := [name for name in former if name not in set(names)]:
        words.append(f"shards that are gone: {named(gone)}")
    if words:
        return words
    if names != former:
        return ["its shards are in another order"]
    pairs = list(zip(now, before, strict=True))
    for key, what in (("samples", "number of samples"), ("size", "size"), ("sha256", "content")):
        values = [(getattr(a, key), getattr(b, key), a.name) for a, b in pairs]
        if changed := [name for new, old, name in values if None not in (new, old) and new != old]:
            return [f"another {what}: {named(changed)}"]
    return []


def _listed(classes: tuple[str, ...]) -> str:
    return named(list(classes)) if classes else "none"
