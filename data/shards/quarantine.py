"""Samples known to be bad: a list beside the index, written by `python -m data.inspect`, honoured by every stream."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from launch.command.cli import UserError

if TYPE_CHECKING:
    from data.reading.readers import NumberedShards

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


class Quarantine:
    """The lists of all indexes of a run, by the run's shard numbers."""

    MARK: ClassVar[str] = "quarantined: "

    def __init__(self, reasons: Mapping[int, Mapping[int, str]]):
        self._reasons = reasons

    @classmethod
    def of(cls, shards: NumberedShards) -> Quarantine:
        """Those beside the (local) indexes."""
        found: dict[int, Mapping[int, str]] = {}
        for first, index in zip(shards.first, shards.indexes, strict=False):
            if not index.path:
                continue
            listed = load(quarantine_path(Path(index.path)))
            if listed:
                found.update({first + i: listed[s.url] for i, s in enumerate(index.shards) if s.url in listed})
        return cls(found)

    def reason(self, shard: int, position: int) -> str | None:
        """Why a sample is not to be used; None if it may be."""
        of_shard = self._reasons.get(shard)
        return None if of_shard is None else of_shard.get(position)
