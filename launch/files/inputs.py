"""Reads what users and earlier commands left: settings and facts in YAML or JSON, and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from launch.command.cli import UserError, reason


def text_of(path: Path | str, key: str = "") -> str:
    """A text file's content; UserError (the key, if there is one, the path and the reason) where it is none."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{_named(path, key)} is no text in UTF-8: give another file, or save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{_named(path, key)} can't be read ({error.strerror or error}): check the path") from error


def settings_of(path: Path | str, key: str = "") -> dict[str, Any]:
    """The dictionary in a YAML or JSON file; UserError where it holds none."""
    text = text_of(path, key)
    try:
        values = json.loads(text) if Path(path).suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if Path(path).suffix == ".json" else "YAML"
        raise UserError(f"{_named(path, key)} is no {kind} ({reason(error)}): restore it, or give another") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{_named(path, key)} holds no settings (KEY: VALUE): restore it, or give another")
    return dict(values)


def _named(path: Path | str, key: str) -> str:
    return f"{key}={path}" if key else str(path)
