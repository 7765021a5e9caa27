"""Samples known to be bad: a list beside the index, written by `python -m data.inspect`; streams skip them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from data.shards.index import ShardIndex, offsets_path
from data.shards.loading import load_index
from data.shards.offsets import ShardOffsets
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError
from launch.files.atomic import write_file

KIND = "vqloom-quarantine-v1"
SUFFIX = ".quarantine.json"


def quarantine_path(index_path: Path) -> Path:
    """File of the list of the index at `index_path`: `train.json` → `train.quarantine.json`."""
    return index_path.with_name(index_path.name.removesuffix(".json") + SUFFIX)


def save(path: Path, reasons: Mapping[str, Mapping[int, str]]) -> None:
    """Write a list: for each shard url, as in the index, the positions in it and why each is bad."""
    shards = {url: {str(position): why for position, why in of.items()} for url, of in reasons.items() if of}
    write_file(path, json.dumps({"__kind__": KIND, "shards": shards}, indent=1) + "\n")


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
            f"{path} is no quarantine list ({error}): write it again with `python -m data.inspect`"
        ) from error


def set_aside(index_path: Path, now: ShardIndex) -> str:
    """Rename the list of an index that is about to be replaced by one of other samples; a line that says so.

    Its positions would mean others. Empty where there is no list, or the samples are the same.
    """
    path = quarantine_path(index_path)
    if not path.exists():
        return ""
    if _same_places(index_path, now):
        return ""
    kept = path.with_name(f"{path.name}.before")
    path.replace(kept)
    return f"warning: {path} was of the former index, and is now {kept}: verify the set again"


def _same_places(index_path: Path, now: ShardIndex) -> bool:
    """Whether an index on disk has its samples where another one has them."""
    try:
        before, places = load_index(index_path, with_offsets=False), ShardOffsets.load(offsets_path(index_path))
    except (OSError, ValueError):  # UserError is a ValueError
        return False
    shards = [[(shard.url, shard.nsamples) for shard in index.shards] for index in (before, now)]
    return shards[0] == shards[1] and now.offsets is not None and np.array_equal(places.blocks, now.offsets.blocks)


class QuarantinedError(DamagedSampleError):
    """A sample that a quarantine list names, with the reason given there."""


def quarantined(indexes: Iterable[ShardIndex]) -> list[Mapping[int, str]]:
    """Reasons by position, for each shard of all (local) indexes: the first index's shards, then the second's, …"""
    reasons: list[Mapping[int, str]] = []
    for index in indexes:
        listed = load(quarantine_path(Path(index.path))) if index.path else {}
        reasons += [listed.get(shard.url, {}) for shard in index.shards]
    return reasons
