"""What a run is trained on: RUN/data.json keeps what it is, so that other data at the same paths are noticed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from launch.command.cli import UserError
from launch.files.atomic import write_file
from launch.files.inputs import settings_of
from launch.run.folder import CONFIG, is_under, plain, within

DATA = "data.json"


class Recorded(Protocol):
    """Something that a run is made from and that a resumed run must find again, such as a data set."""

    def to_dict(self) -> dict[str, Any]:
        """What is kept of it, JSON values."""
        ...

    def difference(self, saved: Mapping[str, Any]) -> str:
        """In words, what differs from what was kept; empty where it is the same."""
        ...


def check_data(
    folder: Path, config: Any, data: Mapping[str, Recorded], free: Sequence[str], allow_changes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The settings whose data are those that the run in `folder` began on, wherever they lie now; notes for the log.

    `data` is what settings name: data.index, data.held_out, data.mixture[PATH]. Raises UserError for other data, unless
    `allow_changes` names the setting, or it is one of `free` and names another path than before.
    """
    if not data or not (folder / CONFIG).exists():
        return [], []
    try:
        saved = dict(json.loads((folder / DATA).read_text()))
    except FileNotFoundError:
        return [], [f"{folder} doesn't say which data this run began on; from now on it does ({DATA})"]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / DATA} can't be read ({error}): restore it, or delete it to resume") from error
    before, now = settings_of(folder / CONFIG), plain(config)
    same, notes = [], []
    for key, one in data.items():
        if key not in saved:
            continue
        setting = key.partition("[")[0]
        try:
            words = one.difference(saved[key])
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / DATA} can't be read ({error}): restore it, or delete it to resume") from error
        if not words:
            same.append(key)
        elif is_under(setting, within(allow_changes)) or (
            is_under(key, free) and _value(before, key) != _value(now, key)
        ):
            notes.append(f"the run goes on with other data in {key}: {words}")
        else:
            raise UserError(
                f"{key} doesn't hold the data that the run in {folder} began on: {words}; restore them, choose another "
                f"run.folder, or allow the change by run.allow_changes=[{setting}]"
            )
    return same, notes


def keep_data(folder: Path, data: Mapping[str, Recorded]) -> None:
    """Write RUN/data.json."""
    if data:
        write_file(folder / DATA, json.dumps({key: one.to_dict() for key, one in data.items()}, indent=1) + "\n")


def _value(config: Any, key: str) -> Any:
    """The value of a dotted key in a nested configuration; None where there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config
