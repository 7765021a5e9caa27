"""Turns the words of a command line into options of the form that jsonargparse reads, each with a value of its type."""

from __future__ import annotations

import json
import os
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.command import values
from launch.command.renamed import new_key, spread, with_new_keys


class Words:
    """The words of one command line, read for one configuration (launch.command.cli.parse says how)."""

    def __init__(self, config_class: type, positional: Sequence[str], rest: str | None):
        self._class, self._rest = config_class, rest
        self._waiting = list(positional)
        self._lists: dict[str, list[str]] = {}
        self._nested: dict[str, dict[str, Any]] = {}
        self._of_file: dict[str, dict[str, Any]] = {}
        self._kinds = typing.get_type_hints(config_class)
        self.given: dict[str, list[str]] = {}
        """What was given for each option, in this order."""

    def options(self, words: Sequence[str]) -> list[str]:
        """The options, each with its value. Raises ValueError for what is no option, and for a wrong value."""
        left, result = list(words), []
        while left:
            word = left.pop(0)
            if word.startswith("--"):
                result += self._option(word, left)
            elif word in ("-h", "-v") or (word.startswith("-") and not self._waiting):
                result.append(word)
            elif not self._waiting:
                raise ValueError(f"{word} belongs to no option: give it as --OPTION VALUE, in quotes if it has spaces")
            else:
                result += self._positional(word)
            if self._rest is not None and not self._waiting:
                self._lists[self._rest], left = left, []
        for name in self._lists.keys() & self.given.keys():
            told = f"--{name} is given, and words without an option too ({' '.join(self._lists[name])})"
            raise ValueError(f"{told}: leave one of them out")
        lists = [f"--{name}={json.dumps(given)}" for name, given in self._lists.items()]
        nested = {name: {**self._of_file.get(name, {}), **given} for name, given in self._nested.items()}
        return [*result, *lists, *(f"--{name}={json.dumps(given)}" for name, given in nested.items())]

    def tell_repeated(self) -> None:
        """Say which options were given twice, and which value counts; from the first rank only."""
        for key, given in self.given.items():
            if len(set(given)) > 1 and os.environ.get("RANK", "0") == "0":
                what = f"note: --{key} is given {len(given)} times: the last one counts, {given[-1]}"
                print(what, file=sys.stderr, flush=True)

    def _positional(self, word: str) -> list[str]:
        name = self._waiting[0]
        if typing.get_origin(self._kinds[name]) is list:
            self._lists.setdefault(name, []).append(word)
            return []
        return self._value(self._waiting.pop(0), word)

    def _option(self, word: str, left: list[str]) -> list[str]:
        """One option; takes its value from the words that are left."""
        name, joined, value = word[2:].partition("=")
        if name in ("help", "print_config", "print-config", ""):
            return [f"--{name.replace('-', '_')}{joined}{value}"]
        key, kind, off = self._known(new_key(self._spelled(name), self._class))
        if off:
            if joined:
                raise ValueError(f"{word} has a value: give --{name}, or --{key}={value}")
            return self._value(key, "false")
        if not joined and left and not left[0].startswith("--"):
            is_value = kind is not bool or left[0].lower() in values.TRUTHS
            if is_value or not self._waiting:
                joined, value = "=", left.pop(0)
        if not joined:
            if kind is not bool:
                raise ValueError(
                    f"--{key} has no value: give {values.form(key, kind)}; --{key}=VALUE if it begins with --"
                )
            value = "true"
        if self._is_list(kind) and not self._waiting and _continues(left):
            more = [value]
            while _continues(left):
                more.append(left.pop(0))
            found = [item for one in more for item in values.items(key, values.word(one.rstrip(",")))]
            self.given.setdefault(key, []).append(" ".join(more))
            return [f"--{key}={json.dumps(values.settled(key, found, kind))}"]
        if key == "config" and "config" not in self._kinds:
            return [f"--config={self._file(value)}"]
        if "," in key:
            return [
                word
                for one, item in spread(key, values.items(key, values.word(value)))
                for word in self._value(one, item)
            ]
        return self._value(key, value)

    def _known(self, key: str) -> tuple[str, Any, bool]:
        """An option's key and type, and whether it is the `--no-…` of a flag. ValueError for an unknown one."""
        if "," in key or (key == "config" and "config" not in self._kinds):
            return key, str, False
        keys = {f"{one}": False for one in (key, f"{key}_")}
        keys |= {
            without: True for start in (r"^no_", r"(?<=\.)no_(?=[^.]*$)") if (without := re.sub(start, "", key)) != key
        }
        for one, off in keys.items():
            try:
                kind = self._kind(one)
            except KeyError:
                continue
            if not off or kind is bool:
                return key if one == f"{key}_" else one, kind, off
        raise ValueError(f"--{values.unknown(key, self._class)}")

    def _kind(self, key: str) -> Any:
        """The type of a setting; raises KeyError for what is no setting."""
        kind: Any = self._class
        for name in self._path(key):
            kind = values.inner(kind, name)
        return kind

    def _path(self, key: str) -> list[str]:
        """The parts of a dotted key; what follows a dictionary of single values is one of its keys, dots included."""
        outer, dot, rest = key.partition(".")
        kind = self._kinds.get(outer)
        single = typing.get_origin(kind) is dict and typing.get_args(kind)[1] in (str, int, float, bool)
        return [outer, rest] if dot and single else key.split(".")

    @staticmethod
    def _is_list(kind: Any) -> bool:
        return any(typing.get_origin(one) is list for one in values.members(kind))

    def _spelled(self, name: str) -> str:
        """A dotted name with underscores for hyphens, but for the keys of dictionaries, which are the user's own."""
        parts, kind = name.split("."), self._class
        for i, part in enumerate(parts):
            if any(typing.get_origin(one) is dict or one is Any for one in values.members(kind)):
                break
            parts[i] = part.replace("-", "_")
            try:
                kind = values.inner(kind, parts[i])
            except KeyError:
                return ".".join(parts[:i] + [part.replace("-", "_") for part in parts[i:]])
        return ".".join(parts)

    def _value(self, key: str, value: str) -> list[str]:
        """An option with its value, of its type."""
        self.given.setdefault(key, []).append(value)
        kind = self._kind(key if key.split(".")[0] in self._kinds else f"{key}_")
        now = values.settled(key, values.word(value), kind)
        outer, *steps = self._path(key)
        if steps and typing.get_origin(self._kinds.get(outer)) is dict:
            place = self._nested.setdefault(outer, {})
            for step in steps[:-1]:
                place = place.setdefault(step, {})
            place[steps[-1]] = now
            return []
        return [f"--{key}={now if isinstance(now, str) else json.dumps(now)}"]

    def _file(self, value: str) -> str:
        """The settings of a configuration file as JSON, under the names and with the types that they have now."""
        try:
            path = Path(value).expanduser()
            text = value if value.lstrip().startswith("{") else path.read_text(encoding="utf-8")
            given = values.load(text)
        except (yaml.YAMLError, OSError, ValueError) as error:
            raise ValueError(f"config={value} can't be read ({_why(error)}): give a YAML file of settings") from error
        if given is None and text.strip():
            given = {}  # nothing but comments
        if not isinstance(given, Mapping):
            raise ValueError(f"config={value} holds no settings: give a YAML file of KEY: VALUE")
        try:
            now = values.settled("", with_new_keys(given, self._class), self._class)
        except ValueError as error:
            raise (error if text is value else ValueError(f"config={value}: {error}")) from error
        self._of_file |= {name: block for name, block in now.items() if typing.get_origin(self._kinds[name]) is dict}
        return json.dumps(now)


def _continues(left: Sequence[str]) -> bool:
    """Whether the next word is a further item of a list."""
    return bool(left) and (not left[0].startswith("-") or re.fullmatch(r"-[\d.]+", left[0]) is not None)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).split())
