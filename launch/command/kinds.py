"""Blocks of settings that come in several forms, told apart by their `kind`: `data.transform` of pictures or sounds.

Such a field is a union of dataclasses, each with a `kind: Literal[NAME] = NAME`. Before options are read, the class is
narrowed to the forms that the words and files ask for, so that each option has one meaning and `--help` shows one form.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from launch.command import values

_ABOUT = ("__doc__", "__firstlineno__")
"""With name and module, what the docstrings of fields are found by."""


def narrowed(config_class: type, words: Sequence[str], prefix: str = "") -> type:
    """The dataclass with one form for each of its fields that has several; itself where none has.

    The form is that of the `kind` which is given, else that of the default. ValueError for an unknown one, and for two.
    """
    hints = typing.get_type_hints(config_class)
    replaced: dict[str, tuple[type, Any]] = {}
    for field in dataclasses.fields(config_class):
        forms: list[Any] = [one for one in values.members(hints[field.name]) if dataclasses.is_dataclass(one)]
        key = f"{prefix}{field.name}"
        if len(forms) > 1:
            replaced[field.name] = _chosen(key, forms, field, words), field
        elif len(forms) == 1 and (form := narrowed(forms[0], words, f"{key}.")) is not forms[0]:
            replaced[field.name] = form, field
    if not replaced:
        return config_class
    about = {name: value for name in _ABOUT if (value := vars(config_class).get(name)) is not None}
    made: Any = dataclasses.make_dataclass(
        config_class.__name__,
        [(name, form, _default(form, field)) for name, (form, field) in replaced.items()],
        bases=(config_class,),
        namespace={**about, "__qualname__": config_class.__qualname__, "_whole": config_class},
        frozen=True,
    )
    made.__module__ = config_class.__module__
    return made


def whole(config: Any) -> Any:
    """The settings that a narrowed class holds, as an object of the class itself; changes the object."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            whole(value)
    if "_whole" in vars(type(config)):
        object.__setattr__(config, "__class__", type(config)._whole)
    return config


def _chosen(key: str, forms: Sequence[Any], field: Any, words: Sequence[str]) -> type:
    kinds = {form.kind: form for form in forms}
    given = {values.settled(f"{key}.kind", kind, Literal[tuple(kinds)]) for kind in _given(f"{key}.kind", words)}
    if len(given) > 1:
        raise ValueError(f"{key}.kind is given as {' and as '.join(sorted(given))}: leave one out, with its settings")
    return kinds[given.pop()] if given else type(field.default_factory())


def _default(form: type, field: Any) -> Any:
    """The field of a form, with a default if the field had one."""
    missing = field.default_factory is dataclasses.MISSING and field.default is dataclasses.MISSING
    default: dict[str, Any] = {} if missing else {"default_factory": form}
    return dataclasses.field(kw_only=field.kw_only, **default)


def _given(key: str, words: Sequence[str]) -> Iterator[Any]:
    """What is given for a key: as an option, in a block or in a configuration file."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if not word.startswith("--"):
            continue
        name, joined, value = word[2:].partition("=")
        if not joined and (not following or following.startswith("--")):
            continue
        name, value = name.replace("-", "_"), value if joined else following
        if name == key:
            yield values.word(value)
        elif name == "config" or key.startswith(f"{name}."):
            inside = _inside(value, key if name == "config" else key.removeprefix(f"{name}."))
            if inside is not None:
                yield inside


def _inside(text: str, key: str) -> Any:
    """A key's value in a block or file of settings; None where it isn't there. Faults are told when it is read."""
    try:
        block: Any = values.load(text if text.lstrip().startswith("{") else Path(text).expanduser().read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    for name in key.split("."):
        block = block.get(name) if isinstance(block, Mapping) else None
    return block
