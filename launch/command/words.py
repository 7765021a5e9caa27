"""Command lines with plain words and bare flags, in the options that `launch.command.cli.parse` reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


def as_options(words: Sequence[str], names: Sequence[str], config_class: type) -> list[str]:
    """Leading words get option names, and bare flags the value `true`.

    `A B --check --c 1` with names (source, out) → `--source A --out B --check true --c 1`, where `check` is a bool
    field of `config_class`.
    """
    leading: list[str] = []
    for name, word in zip(names, words, strict=False):
        if word.startswith("-"):
            break
        leading += [f"--{name}", word]
    flags = {f"--{field.name}" for field in dataclasses.fields(config_class) if field.type in ("bool", bool)}
    rest: list[str] = []
    after = [*words[len(leading) // 2 :]]
    for word, following in zip(after, [*after[1:], "--"], strict=False):
        rest.append(word)
        if word in flags and following.startswith("-"):
            rest.append("true")
    return [*leading, *rest]
