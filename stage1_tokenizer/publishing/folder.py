"""What every released folder must have and must not have."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from launch.command.cli import UserError
from stage1_tokenizer.publishing.figures import is_figure

METRICS, CARD = "metrics.json", "README.md"


NEEDED = ("config.json", "model.safetensors", "metrics.json", "README.md")
"""Files of every released folder."""


_PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".h5"})


def check_release(folder: Path) -> None:
    """Raise UserError unless a folder can be published: all files, a licence, figures, and no pickles."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a released folder, it has no {name}: create one with the release command")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if is_pickle(path):
            raise UserError(f"{path} is a pickle, which runs code when it is loaded: delete it, or save safetensors")
    if not re.search(r"^license: (?!unknown)\S+$", (folder / "README.md").read_text().split("\n---")[0], re.MULTILINE):
        raise UserError(f"{folder / 'README.md'} names no licence: release again with --licence")
    try:
        figures = [value for value in json.loads((folder / "metrics.json").read_text()).values() if is_figure(value)]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder / 'metrics.json'} can't be read ({error}): release again") from error
    if not figures:
        raise UserError(f"{folder / 'metrics.json'} has no figures: evaluate, and release again with --metrics")


def is_pickle(path: Path) -> bool:
    """Whether a file is, contains or may contain a pickle, by its name or its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix.lower() in _PICKLES or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        return True
    return start == b"PK\3\4" and any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
