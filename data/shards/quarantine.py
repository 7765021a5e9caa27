"""Samples known to be bad: a list beside the index, written by `python -m data.inspect`; streams skip them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.shards.index import ShardIndex
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


class QuarantinedError(DamagedSampleError):
    """A sample that a quarantine list names, with the reason given there."""


def quarantined(indexes: Iterable[ShardIndex]) -> list[Mapping[int, str]]:
    """Reasons by position, for each shard of all (local) indexes: the first index's shards, then the second's, …"""
    reasons: list[Mapping[int, str]] = []
    for index in indexes:
        listed = load(quarantine_path(Path(index.path))) if index.path else {}
        reasons += [listed.get(shard.url, {}) for shard in index.shards]
    return reasons
