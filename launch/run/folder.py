"""A run's folder: its lock, its configuration and its origin.

RUN/config.yaml      the resolved configuration; `--config RUN/config.yaml` starts the same run again
RUN/run.json         commit, versions, hardware and command of each start
RUN/data.json        what the run is trained on (launch.run.data)
RUN/metrics.jsonl    launch.run.metrics
RUN/log.txt          what the run said
RUN/checkpoints/     launch.checkpoints
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from launch.command.cli import UserError
from launch.command.renamed import with_new_keys
from launch.config import FIXED
from launch.files.atomic import write_file
from launch.files.inputs import settings_of
from launch.run.provenance import facts

CONFIG, ORIGIN, LOG, LOCK = "config.yaml", "run.json", "log.txt", ".lock"


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as the dictionaries, lists and strings that YAML and JSON know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def lock(folder: Path) -> IO[str]:
    """Hold the run folder until the returned file is closed or its process is gone, however it went.

    Raises UserError where another running process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"run.folder={folder} is in use by {owner}: wait for it, stop it, or choose another folder"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    return file


def adopt(folder: Path, config: Any, free: Sequence[str], allow_changes: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Save the configuration in a new folder; in an old one, check that it is still the same.

    `free` lists dotted keys, or prefixes ending in a dot, that don't alter the result. `allow_changes` lists keys, or
    blocks, that do, and that this start may change; those that did are returned with old and new value. Raises
    UserError with the first key that may not change. Keys of older versions are read under their new names.
    """
    new = plain(config)
    changed: dict[str, list[Any]] = {}
    path = folder / CONFIG
    if path.exists():
        old = with_defaults(with_new_keys(settings_of(path), type(config)), config)
        for key, before, after in differences(old, new):
            if is_under(key, free):
                continue
            if not is_under(key, within(allow_changes)):
                way = "" if key.split(".")[0] in FIXED else ", or allow the change by run.allow_changes"
                raise UserError(
                    f"{key}={after!r} differs from {before!r}, with which the run in {folder} was started: "
                    f"set it back to resume that run, or choose another run.folder{way}"
                )
            changed[key] = [before, after]
    write_file(path, yaml.safe_dump(new, sort_keys=False))
    return changed


def is_under(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of these names, or begins with one that ends in a dot."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)


def within(names: Sequence[str]) -> list[str]:
    """The names, and those of all settings in blocks of these names, for `is_under`."""
    return [*names, *(f"{name}." for name in names)]


def with_defaults(old: dict[str, Any], config: Any) -> dict[str, Any]:
    """A saved configuration with settings that came after it, at their defaults: what it was run with."""
    filled = dict(old)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and isinstance(filled.get(field.name), dict):
            filled[field.name] = with_defaults(filled[field.name], value)
        elif field.default is not dataclasses.MISSING:
            filled.setdefault(field.name, plain(field.default))
        elif field.default_factory is not dataclasses.MISSING:
            filled.setdefault(field.name, plain(field.default_factory()))
    return filled


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys at which two nested configurations differ, with both values (None where absent)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix, old, new


def add_to_start(folder: Path, **extra: Any) -> None:
    """Add to the newest start in run.json what is known only now."""
    path = folder / ORIGIN
    starts = settings_of(path)["starts"]
    starts[-1] |= extra
    write_file(path, json.dumps({**starts[-1], "starts": starts}, indent=2) + "\n")


def record_start(folder: Path, **extra: Any) -> None:
    """Append this start's facts to run.json, whose top level tells of the newest one."""
    path = folder / ORIGIN
    starts = settings_of(path).get("starts", []) if path.exists() else []
    starts.append({**facts(), **extra})
    write_file(path, json.dumps({**starts[-1], "starts": starts}, indent=2) + "\n")
