"""Names instead of places: what is given away (releases, results, reports) names no folder of this machine."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_GENERAL = ("index", "info", "_info")
"""Names of files that say nothing; the folder's name is taken instead."""
_SUFFIX = r"\.(json|npz|yaml|tar(\.gz)?)$"
_FILE = re.compile(
    r"\.(json|jsonl|npz|npy|yaml|yml|txt|tar|gz|pt|pth|ckpt|safetensors|parquet|png|jpg|zip)$", re.IGNORECASE
)


def place_name(location: str) -> str:
    """The last part of a path or URL that says something, without suffix: `/home/a/birds/index.json` → `birds`.

    Nothing is opened: for files, folders and sets that may not be there.
    """
    path, _, split = location.partition("#")
    parts = _parts(path)
    names = [re.sub(_SUFFIX, "", part) for part in reversed(parts[-2:])]
    chosen = next((name for name in names if name not in _GENERAL and name.strip(".~")), "")
    return f"{chosen} {split}".strip() or "unnamed"


def is_place(text: str) -> bool:
    """Whether a text is a path or a URL; `A/B`, which may be a name, if it ends as a file or something is there."""
    if re.match(r"^(/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|[\w+.-]+://|pipe:)", text):
        return len(text) > 1
    if "/" not in text or "\n" in text:
        return False
    return bool(_FILE.search(text)) or os.path.exists(text)  # noqa: PTH110


def without_places(value: Any) -> Any:
    """JSON or YAML values with the last part of each path and URL in its stead, keys too."""
    if isinstance(value, Mapping):
        return {without_places(key): without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(item) for item in value]
    return _last(value) if isinstance(value, str) and is_place(value) else value


def word_without_places(word: str) -> str:
    """A word of a command line with the last part of a path in its stead: `--data.index=/home/a/b.json`."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + without_places(value)


def without_folder(text: str, folder: Path) -> str:
    """A text with the folder's name in place of its path."""
    for path in sorted({str(folder.resolve()), str(folder.absolute())}, key=len, reverse=True):
        text = text.replace(path, folder.resolve().name)
    return text


def _last(location: str) -> str:
    """The last part with its suffix, a general name with its folder's."""
    if location.startswith("pipe:"):
        return "pipe"
    parts = _parts(location)
    kept = parts[-2:] if parts and re.sub(_SUFFIX, "", parts[-1]) in _GENERAL else parts[-1:]
    return "/".join(part for part in kept if part.strip(".~"))


def _parts(location: str) -> list[str]:
    path = urlsplit(location).path if "://" in location else location
    return [part for part in re.split(r"[/\\]+", path) if part]
