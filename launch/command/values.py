"""What people write for a setting, on a command line or in a YAML file, as the value that its type asks for.

A list is `3`, `3,5`, `[3, 5]` or `["3", "5"]`; an item that holds a comma stands in quotes, and a path that is there is
one item whatever it holds. Texts and names stay as they are written (`3`, `007`, `yes`), also in files, where YAML
would take them for numbers. Whole numbers may be `1e6` or `1_000`, numbers `1e-4`. Flags are true, yes, on or 1, or
false, no, off or 0. `null` and `none` mean no value where a setting may have none (in a list of names, `none` is a
name). `~/` is the home folder, as in a shell.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import yaml

TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
NONES = ("null", "none")


class Written(str):
    """A word of a command line, or a value without quotes in a file, as it is written; `meaning` is YAML's."""

    meaning: Any

    def __new__(cls, text: str, meaning: Any = None) -> Written:
        """Keep both."""
        word = super().__new__(cls, text)
        word.meaning = meaning
        return word


class _Loader(yaml.SafeLoader):
    """YAML with its unquoted values as they are written."""

    def construct_scalar(self, node: Any) -> Any:
        """Text, marked where it had no quotes."""
        text = super().construct_scalar(node)
        return Written(text, text) if node.style is None and isinstance(text, str) else text


def _written(loader: _Loader, node: Any) -> Any:
    return Written(node.value, yaml.SafeLoader.yaml_constructors[node.tag](loader, node))


for _name in ("int", "float", "bool", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _written)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load(text: str) -> Any:
    """YAML (or JSON), with values as they are written. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def word(text: str) -> Written:
    """A word of a command line."""
    try:
        return Written(text, plain(load(text)))
    except yaml.YAMLError:
        return Written(text, text)


def plain(value: Any) -> Any:
    """Values as YAML understands them."""
    if isinstance(value, Written):
        return str(value.meaning) if isinstance(value.meaning, str) else value.meaning
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union but None; of any other type, itself."""
    united = typing.get_origin(kind) in (Union, types.UnionType)
    return tuple(one for one in typing.get_args(kind) if one is not type(None)) if united else (kind,)


def inner(kind: Any, name: str) -> Any:
    """The type of a setting inside a block or a dictionary; raises KeyError where there is none of that name."""
    for one in members(kind):
        if dataclasses.is_dataclass(one):
            if name in (hints := typing.get_type_hints(one)) and typing.get_origin(hints[name]) is not typing.ClassVar:
                return hints[name]
        elif typing.get_origin(one) is dict:
            return typing.get_args(one)[1]
        elif one is Any:
            return Any
    raise KeyError(name)


def every_key(kind: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings, those of blocks included."""
    for one in members(kind):
        if dataclasses.is_dataclass(one):
            for field in dataclasses.fields(one):
                yield f"{prefix}{field.name}"
                yield from every_key(inner(one, field.name), f"{prefix}{field.name}.")


def nearest(key: str, keys: Sequence[str]) -> str:
    """What may have been meant by a name that there isn't; empty where nothing is like it."""
    last = key.rpartition(".")[2]
    ends = {one: one.rpartition(".")[2] for one in keys}
    same = [one for one in keys if ends[one] == last]
    alike = difflib.get_close_matches(last, ends.values(), n=1)
    found = same or difflib.get_close_matches(key, keys, n=1) or [one for one in keys if ends[one] in alike]
    return " or ".join(found[:3])


def settled(key: str, value: Any, kind: Any) -> Any:
    """The value of a setting of a type, in JSON's types. Raises ValueError (key, value, rule) where it can't be one."""
    kinds = members(kind)
    optional = kinds != (kind,)
    name = len(kinds) == 1 and typing.get_origin(kinds[0]) is list and typing.get_args(kinds[0])[0] is str
    if value is None or (isinstance(value, Written) and value.lower() in NONES[: 1 if name else 2]):
        if type(None) in typing.get_args(kind):
            return None
        if value is None and kinds != (Any,):
            raise ValueError(f"{key} has no value: give it one, or leave it out")
    if len(kinds) != 1:
        return plain(value)
    return _settled(key, value, kinds[0], " or null" if optional else "")


def _settled(key: str, value: Any, kind: Any, or_null: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) or origin is dict:
        return _block(key, value, kind)
    if origin in (list, tuple):
        return [settled(f"{key}[{i}]", one, arguments[0]) for i, one in enumerate(items(key, value))]
    if isinstance(value, (list, Mapping)) and kind is not Any:
        raise ValueError(f"{key}={json.dumps(plain(value))} is not a single value: give one{or_null}")
    if origin is typing.Literal:
        return _choice(key, value, arguments)
    if kind in (str, Path):
        text = str(value)
        return os.path.expanduser(text) if text.startswith("~/") else text  # noqa: PTH111  (a Path would drop slashes)
    if kind is bool:
        if str(value).lower() not in TRUTHS:
            raise ValueError(f"{key}={value} is neither true nor false: give true, false{or_null}")
        return TRUTHS[str(value).lower()]
    if kind in (int, float):
        return _number(key, value, kind, or_null)
    return plain(value)


def _number(key: str, value: Any, kind: type, or_null: str) -> float:
    text = str(value).strip()
    try:
        number = int(text) if re.fullmatch(r"[-+]?\d[\d_]*", text) else float(text)
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number != int(number)):
        example = "a whole number such as 8" if kind is int else "a number such as 0.5 or 1e-4"
        raise ValueError(f"{key}={value} is not {'a whole' if kind is int else 'a'} number: give {example}{or_null}")
    return kind(number)


def _choice(key: str, value: Any, choices: Sequence[Any]) -> Any:
    for same in (str, lambda one: str(one).lower().replace("-", "_")):
        if found := [one for one in choices if same(one) == same(value)]:
            return found[0]
    close = difflib.get_close_matches(str(value).lower(), [str(one) for one in choices], n=1)
    meant = f"did you mean {close[0]}? Choose" if close else "choose"
    raise ValueError(f"{key}={value} is not known: {meant} one of {', '.join(map(str, choices))}")


def _block(key: str, value: Any, kind: Any) -> Any:
    """The settings of a block or a dictionary, each of its own type."""
    if isinstance(value, str):
        try:
            value = load(value) if value.lstrip().startswith("{") else value
        except yaml.YAMLError as error:
            raise ValueError(f"{key}={value} can't be read ({error}): give it as {form(key, kind)}") from error
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={plain(value)!r} is not a block of settings: give it as {form(key, kind)}")
    found = {}
    for name, one in value.items():
        try:
            found[str(name)] = settled(f"{key}.{name}" if key else str(name), one, inner(kind, str(name)))
        except KeyError:
            raise ValueError(unknown(f"{key}.{name}" if key else str(name), kind, f"{key}." if key else "")) from None
    return found


def unknown(key: str, kind: Any, prefix: str = "") -> str:
    """What to tell of a setting that there isn't."""
    close = nearest(key, [prefix + one for one in every_key(kind)])
    return f"{key} is not a known setting: {f'did you mean {close}? ' if close else ''}--help lists all"


def items(key: str, value: Any) -> list[Any]:
    """The items of a list, in any of its forms."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{key}={plain(value)!r} is not a list: give it as {form(key, list[str])}")
    text = value.strip()
    if not isinstance(value, Written) or _is_path(value):
        return [value]
    if not text:
        raise ValueError(f"{key} is empty: give {form(key, list[str])}, or [] for an empty list")
    if text.startswith("[") and text.endswith("]"):
        try:
            return [word(one) if isinstance(one, Written) else one for one in _json_list(text)]
        except ValueError:
            text = text[1:-1]
    if not text.strip():
        return []
    parts = [part.strip() for line in csv.reader(text.splitlines(), skipinitialspace=True) for part in line]
    return [word(part[1:-1] if re.fullmatch("'.*'", part) else part) for part in parts]


def _json_list(text: str) -> list[Any]:
    """A list in JSON, whose numbers stay as they are written."""
    return list(json.loads(text, parse_int=Written, parse_float=Written, parse_constant=Written))


def _is_path(text: str) -> bool:
    try:
        return re.search(r"[,[]", text) is not None and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def form(key: str, kind: Any, default: Any = None) -> str:
    """How a setting is written, by an example."""
    one = members(kind)[0]
    origin, arguments = typing.get_origin(one), typing.get_args(one)
    if one is bool:
        return f"--{key}" if not default else f"--{key} false"
    if origin in (list, tuple):
        if dataclasses.is_dataclass(arguments[0]):
            return f"--{key} '[{{\"{dataclasses.fields(arguments[0])[0].name}\": …}}]'"
        shown: Any = (
            default or {int: [1, 2], float: [0.5, 1]}.get(arguments[0]) or typing.get_args(arguments[0])[:2] or "ab"
        )
        return f"--{key} {','.join(map(str, shown))}"
    if origin is dict:
        example = {int: 2, float: 0.5, str: "text"}.get(arguments[1], "VALUE")
        return f"--{key}.NAME {example}"
    return f"--{key}.SETTING VALUE" if dataclasses.is_dataclass(one) else f"--{key} VALUE"
