"""What every released folder must have, must not have, and the figures (metrics.json) that it carries."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.command.cli import UserError, reason
from launch.run.metrics import FILE, read

METRICS, CARD = "metrics.json", "README.md"
NEEDED = ("config.json", "model.safetensors", METRICS, CARD)
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
    if not re.search(r"^license: (?!unknown)\S+$", (folder / CARD).read_text().split("\n---")[0], re.MULTILINE):
        raise UserError(f"{folder / CARD} names no licence: release again with --licence")
    try:
        figures = [value for value in json.loads((folder / METRICS).read_text()).values() if is_figure(value)]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder / METRICS} can't be read ({error}): release again") from error
    if not figures:
        raise UserError(f"{folder / METRICS} has no figures: evaluate, and release again with --metrics")


def is_pickle(path: Path) -> bool:
    """Whether a file is, contains or may contain a pickle, by its name or its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix.lower() in _PICKLES or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        return True
    return start == b"PK\3\4" and any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())


def is_figure(value: object) -> bool:
    """Whether a value of metrics.json is a measured number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def own_figures(run: Path, step: int) -> dict[str, Any]:
    """The figures of a run's evaluation at a step, of averaged weights; {} if there was none."""
    lines = [line for line in read(run / FILE) if line["kind"] == "eval" and line["step"] == step]
    return {name.removeprefix("eval/"): value for name, value in (lines[-1] if lines else {}).items() if "/" in name}


def given_figures(path: str, weights_of: Callable[[dict[str, Any]], str], weights: str, command: str) -> dict[str, Any]:
    """A result of `command` (module and option naming the run); UserError if it isn't one, or is of other weights."""
    module = command.split()[0]
    try:
        metrics: dict[str, Any] = json.loads(Path(path).read_text())
        measured = weights_of(metrics)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"metrics={path} is not a result of {module} ({reason(error)}): measure again") from error
    if measured != weights:
        raise UserError(
            f"metrics={path} was measured on other weights than the newest checkpoint's: run {command} again"
        )
    return metrics
