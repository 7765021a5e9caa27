"""Settings under the names that they had in older versions.

A configuration's dataclass lists them: `RENAMED: ClassVar[dict[str, str]] = {"old.key": "new.key"}`, both relative to
that dataclass. A key may name a whole block: then the settings inside move with it. "old": "new1,new2" is for a list
whose items are settings of their own now.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_mentioned: set[str] = set()


def renamed(config_class: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Old and new dotted keys, outer dataclasses first, so that the keys inside a moved block come after it."""
    names: dict[str, str] = config_class.__dict__.get("RENAMED", {})
    for old, new in names.items():
        yield f"{prefix}{old}", f"{prefix}{new}"
    for name, nested in nested_dataclasses(config_class).items():
        yield from renamed(nested, f"{prefix}{name}.")


def nested_dataclasses(config_class: type) -> dict[str, type]:
    """The fields that are dataclasses themselves, optional ones included."""
    hints = typing.get_type_hints(config_class)
    found: dict[str, type] = {}
    for field in dataclasses.fields(config_class):
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                found[field.name] = kind
    return found


def new_key(key: str, config_class: type) -> str:
    """The name that a dotted key has now; says so where it is another."""
    now = key
    for old, new in renamed(config_class):
        if now == old or now.startswith(f"{old}."):
            now = new + now.removeprefix(old)
    if now != key:
        mention(key, now)
    return now


def with_new_keys(values: Mapping[str, Any], config_class: type) -> dict[str, Any]:
    """Nested settings, such as those of a YAML file, under the names that they have now; says which had another.

    Raises ValueError where a setting is given under both names.
    """
    result = copy.deepcopy(dict(values))
    for old, new in renamed(config_class):
        *path, last = old.split(".")
        block: Any = result
        for name in path:
            block = block.get(name) if isinstance(block, dict) else None
        if isinstance(block, dict) and last in block:
            for key, item in spread(new, block.pop(last)):
                _put(result, key.split("."), item, old)
            mention(old, new)
    return result


def spread(key: str, value: Any) -> list[tuple[str, Any]]:
    """New keys with their values: those of a list's items where `key` ends with several names and commas."""
    outer, dot, last = key.rpartition(".")
    names = last.split(",")
    if len(names) == 1:
        return [(key, value)]
    if not isinstance(value, Sequence) or len(value) != len(names):
        raise ValueError(f"{key} are the new names of the items of a list, which {value!r} is not: set them one by one")
    return [(f"{outer}{dot}{name}", item) for name, item in zip(names, value, strict=True)]


def mention(old: str, new: str) -> None:
    """Tell the user, once and from the first rank only, what a setting is called now."""
    if old not in _mentioned and os.environ.get("RANK", "0") == "0":
        print(f"note: the setting {old} is called {new} now", file=sys.stderr, flush=True)
    _mentioned.add(old)


def _put(values: dict[str, Any], path: list[str], value: Any, old: str) -> None:
    """Set a value at a path; two blocks of settings are merged."""
    *outer, last = path
    for name in outer:
        values = values.setdefault(name, {})
    if isinstance(value, dict) and isinstance(values.get(last), dict):
        for key, item in value.items():
            _put(values[last], [key], item, f"{old}.{key}")
    elif last in values:
        raise ValueError(f"{old} is the old name of {'.'.join(path)}, and both are given: remove {old}")
    else:
        values[last] = value
