"""How every command reads its options and tells its user what is wrong with them."""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from launch.command.exit_codes import BAD_INPUT, INTERRUPTED
from launch.command.renamed import new_key, spread, with_new_keys

Config = TypeVar("Config")

ERRORS_FOLDER = "VQLOOM_ERRORS"
"""Environment variable with which a launcher of several ranks names a folder of its own, to tell an error only once."""

TRUTHS = ("true", "false", "yes", "no", "on", "off")


class UserError(ValueError):
    """What the user can mend: one line that names the key, the rule, the value and a way out."""


def one_line(error: BaseException | str, most: int | None = None) -> str:
    """A message without its line breaks, cut at `most` letters; the name of the error's type where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def reason(error: BaseException) -> str:
    """The type of a library's error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300].rstrip(".:")


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str = "",
    positional: Sequence[str] = (),
    rest: str | None = None,
) -> Config:
    """Read `--config FILE.yaml` and dotted overrides (`--a.b value`) into a frozen dataclass.

    Later options win. Hyphens in options' names are underscores; a boolean option without a value is true. Words
    without an option go to the fields that `positional` names, in this order; a list takes all that are left. `rest`
    names the list that gets everything after the last of them, options included. A dataclass with a field `config`
    reads no configuration file; a field `from_` is the option --from. Old names of settings are understood
    (launch.command.renamed).

    `--print_config` prints the resolved configuration and ends; `--help` shows every field with its docstring. Raises
    UserError for an unknown key, a value of the wrong type, and for a ValueError that a dataclass's own
    `__post_init__` raises.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    words = list(sys.argv[1:] if argv is None else argv)
    names = [field.name for field in dataclasses.fields(typing.cast("Any", config_class))]
    parser = ArgumentParser(prog=prog, description=description or config_class.__doc__, exit_on_error=False)
    if "config" not in names:
        parser.add_argument("--config", action="config", help="A YAML file; options after it override it.")
    parser.add_class_arguments(config_class, fail_untyped=True, sub_configs=False)
    for name in names:
        if name.endswith("_"):
            parser._option_string_actions[f"--{name[:-1]}"] = action = parser._option_string_actions.pop(f"--{name}")
            action.option_strings = [f"--{name[:-1]}"]
    try:
        namespace = parser.parse_args(_Words(config_class, positional, rest).options(words))
        if "config" not in names:
            namespace.pop("config", None)
        values = parser.instantiate(namespace)
        return config_class(**{name: values[name] for name in names})
    except (ArgumentError, ValueError, TypeError, OSError) as error:
        raise UserError(one_line(error)) from error


class _Words:
    """Turns the words of a command line into options of the form that jsonargparse reads."""

    def __init__(self, config_class: type, positional: Sequence[str], rest: str | None):
        self._class, self._rest = config_class, rest
        self._waiting = list(positional)
        self._lists: dict[str, list[str]] = {}
        self._nested: dict[str, dict[str, Any]] = {}
        self._kinds = typing.get_type_hints(config_class)

    def options(self, words: Sequence[str]) -> list[str]:
        """The options, each with its value."""
        left, result = list(words), []
        while left:
            word = left.pop(0)
            if word.startswith("--"):
                result += self._option(word, left)
            elif word.startswith("-") or not self._waiting:
                result.append(word)
            else:
                result += self._positional(word)
            if self._rest is not None and not self._waiting:
                self._lists[self._rest], left = left, []
        lists = [f"--{name}={json.dumps(values)}" for name, values in self._lists.items()]
        return [*result, *lists, *(f"--{name}={json.dumps(values)}" for name, values in self._nested.items())]

    def _positional(self, word: str) -> list[str]:
        name = self._waiting[0]
        if typing.get_origin(self._kinds[name]) is list:
            self._lists.setdefault(name, []).append(word)
            return []
        return [f"--{self._waiting.pop(0)}", word]

    def _option(self, word: str, left: list[str]) -> list[str]:
        """One option; takes its value from the words that are left."""
        name, joined, value = word[2:].partition("=")
        if name in ("help", "print_config", "print-config", ""):
            return [f"--{name.replace('-', '_')}{joined}{value}"]
        key = new_key(self._spelled(name), self._class)
        if not joined and left and not left[0].startswith("--"):
            is_value = self._kind(key) is not bool or left[0].lower() in TRUTHS
            if is_value or not self._waiting:
                joined, value = "=", left.pop(0)
        if not joined and self._kind(key) is bool:
            joined, value = "=", "true"
        if not joined:
            return [f"--{key}"]
        if key == "config" and "config" not in self._kinds:
            value = self._file(value)
        if "," in key:
            return [word for one, item in spread(key, json.loads(value)) for word in (f"--{one}", str(item))]
        outer, dot, inner = key.partition(".")
        if dot and typing.get_origin(self._kinds.get(outer)) is dict:
            self._inside(outer, inner.split("."), value)
            return []
        return [f"--{key}", value] if not value.startswith("-") else [f"--{key}={value}"]

    def _spelled(self, name: str) -> str:
        """A dotted name with underscores for hyphens, but for the keys of dictionaries, which are the user's own."""
        outer, dot, inner = name.partition(".")
        outer = outer.replace("-", "_")
        is_dict = typing.get_origin(self._kinds.get(outer)) is dict
        return outer + dot + (inner if is_dict else inner.replace("-", "_"))

    def _kind(self, key: str) -> Any:
        """The type of a setting; None for what is no setting."""
        kind: Any = self._class
        for name in key.split("."):
            if not dataclasses.is_dataclass(kind):
                return None
            kind = typing.get_type_hints(kind).get(name)
        return kind

    def _inside(self, name: str, path: Sequence[str], value: str) -> None:
        """Set a value inside a dictionary of settings."""
        import yaml

        place = self._nested.setdefault(name, {})
        for step in path[:-1]:
            place = place.setdefault(step, {})
        place[path[-1]] = yaml.safe_load(value)

    def _file(self, value: str) -> str:
        """A configuration file, or its content under new names where it has old ones."""
        import yaml

        try:
            path = Path(value)
            values = yaml.safe_load(path.read_text() if path.is_file() else value)
            now = with_new_keys(values, self._class) if isinstance(values, Mapping) else values
        except (yaml.YAMLError, OSError):
            return value  # the parser tells what is wrong with it
        return value if now == values else json.dumps(now)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's main function: exit 0 or what it returns; a UserError is one line on stderr and exit 2."""
    try:
        _leave(main() or 0)
    except UserError as error:
        if _first_to_tell(str(error)):
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _leave(code: int) -> NoReturn:
    """End the process. A launched rank skips the interpreter's own clean-up, in which finished ranks have aborted."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_to_tell(message: str) -> bool:
    """Whether no other rank of this launch has told the user the same: ranks mostly meet the same mistake."""
    try:
        if folder := os.environ.get(ERRORS_FOLDER):
            (Path(folder) / hashlib.sha256(message.encode()).hexdigest()).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass  # better twice than never
    return True
