"""Samples known to be bad: a list beside the index, written by `python -m data.inspect`, honoured by every stream."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.shards.index import ShardIndex
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError

KIND = "vqloom-quarantine-v1"
SUFFIX = ".quarantine.json"


def quarantine_path(index_path: Path) -> Path:
    """Where the list of the index at `index_path` lies: `train.json` → `train.quarantine.json`."""
    return index_path.with_name(index_path.name.removesuffix(".json") + SUFFIX)


def save(path: Path, reasons: Mapping[str, Mapping[int, str]]) -> None:
    """Write a list: for each shard url, as in the index, the positions in it and why each is bad."""
    shards = {url: {str(position): why for position, why in of.items()} for url, of in reasons.items() if of}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"__kind__": KIND, "shards": shards}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def load(path: Path) -> dict[str, dict[int, str]]:
    """Reasons by shard url and position; empty where there is no list. UserError for a file that is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["__kind__"] != KIND:
            raise ValueError(f"its kind is {values['__kind__']}")
        return {url: {int(position): why for position, why in of.items()} for url, of in values["shards"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no quarantine list ({error}): write it anew with `python -m data.inspect`"
        ) from error


class QuarantinedError(DamagedSampleError):
    """A sample that a quarantine list names, with the reason given there."""


class Quarantine:
    """The lists of all indexes of a run, by shard number: the first index's shards, then the second's, …"""

    def __init__(self, reasons: Mapping[int, Mapping[int, str]]):
        self._reasons = reasons

    @classmethod
    def of(cls, indexes: Iterable[ShardIndex]) -> Quarantine:
        """Those beside the (local) indexes."""
        reasons: dict[int, Mapping[int, str]] = {}
        first = 0
        for index in indexes:
            listed = load(quarantine_path(Path(index.path))) if index.path else {}
            reasons |= {first + i: listed[shard.url] for i, shard in enumerate(index.shards) if shard.url in listed}
            first += len(index.shards)
        return cls(reasons)

    def check(self, shard: int, position: int) -> None:
        """Raise QuarantinedError for a sample that is not to be used."""
        reason = self._reasons.get(shard, {}).get(position)
        if reason is not None:
            raise QuarantinedError(reason)
