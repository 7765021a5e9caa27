"""Which data a run was trained and evaluated on, as a release may say it: by name and identity, never by path."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from launch.command.cli import UserError
from launch.files.places import place_name
from launch.run.data import DATA


def index_of(config: Mapping[str, Any], name: str) -> ShardIndex | None:
    """The index that `data.index` or `data.held_out` of a run's configuration names; None if it can't be read."""
    try:
        return load_index(config["data"][name]) if config["data"].get(name) else None
    except (UserError, OSError):
        return None


def is_recorded(run: Path, index: ShardIndex, name: str) -> bool:
    """Whether an index is what `data.index` or `data.held_out` of a run was; true of runs that don't say."""
    try:
        return not Identity.of(index).difference(json.loads((run / DATA).read_text())[f"data.{name}"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


def set_of(run: Path, config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The set (Identity.brief) that a run's `data.index` or `data.held_out` was; None where none was set.

    Of runs from before data.json it is what lies there now, else its name alone.
    """
    place = config["data"].get(name)
    if not place:
        return None
    try:
        return Identity.from_dict(json.loads((run / DATA).read_text())[f"data.{name}"]).brief()
    except (OSError, ValueError, KeyError, TypeError):
        index = index_of(config, name)
        return Identity.of(index).brief() if index else {"name": place_name(place)}
