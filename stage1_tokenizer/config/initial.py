"""The tokenizer that a command line names for fine-tuning, found before the command line can be read as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import yaml


def init_of(words: Sequence[str]) -> str | None:
    """The value of `init` on a command line, or in the configuration files that it names; the last one counts."""
    init: str | None = None
    pairs = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for name, value in itertools.pairwise(pairs):
        if name == "--init":
            init = None if value == "null" else value
        elif name == "--config" and Path(value).is_file():
            try:
                settings = yaml.safe_load(Path(value).read_text())
            except yaml.YAMLError:
                continue  # reported where the file is read as a configuration
            if isinstance(settings, dict) and "init" in settings:
                init = settings["init"]
    return init
