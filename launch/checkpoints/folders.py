"""Where a run's checkpoints lie, whether they are whole, and which are deleted; reads files only, without torch.

RUN/checkpoints/step-000001234/
    manifest.json     {"format": 1, "step": …, "world_size": …, "files": {NAME: {"size": …, "sha256": …}}}
    <name>.pt         the state_dict of a part, by torch.save; read with weights_only=True
    <name>.part3.safetensors   rank 3's pieces of parameters, which any strategy and number of ranks can read
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from launch.config import RunConfig
from launch.run import metrics

MANIFEST = "manifest.json"
FORMAT = 1
FOLDER, PREFIX = "checkpoints", "step-"


def verify(path: Path) -> str | None:
    """Why a checkpoint folder can't be trusted, naming the file: missing, truncated or altered; None where it can."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return f"{MANIFEST} can't be read"
    if manifest.get("format") != FORMAT:
        return f"{MANIFEST} has format {manifest.get('format')}, this program reads {FORMAT}"
    for name, (size, digest) in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if (found := (path / name).stat().st_size) != size:
            return f"{name} is truncated or overgrown: {found} bytes instead of {size}"
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{name} is altered: its sha256 isn't the manifest's"
    return None


def steps(folder: Path) -> list[int]:
    """Steps of the run's checkpoints, newest first, valid or damaged."""
    names = [path.name.removeprefix(PREFIX) for path in (folder / FOLDER).glob(f"{PREFIX}*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def place(folder: Path, step: int) -> Path:
    """The folder of the run's checkpoint of a step."""
    return folder / FOLDER / f"{PREFIX}{step:09d}"


def described(path: Path) -> str:
    """A checkpoint's size, ranks and parts in one line."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        size = sum(entry["size"] for entry in manifest["files"].values())
        parts = sorted({re.sub(r"\.part\d+\.", ".part*.", name) for name in manifest["files"]})
        return f"{size / 1e6:.1f} MB, {manifest['world_size']} ranks: {', '.join(parts)}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or can't be read"


def to_delete(folder: Path, steps: Sequence[int], keep: int, config: RunConfig | None) -> list[int]:
    """Steps whose checkpoints are to be deleted: not among the `keep` newest, no multiple of run.keep_every, not best.

    `steps` are those there, newest first.
    """
    every = config.keep_every if config else 0
    best = best_step(folder, steps, config.keep_best) if config and config.keep_best else None
    return [step for step in steps[keep:] if step != best and not (every and step % every == 0)]


def best_step(folder: Path, steps: Sequence[int], rule: str) -> int | None:
    """The step with the best evaluation of those in `steps`, by metrics.jsonl; None where none was evaluated."""
    name, _, which = rule.rpartition(":")
    lines = metrics.read(folder / metrics.FILE)
    values = {line["step"]: line[name] for line in lines if name in line and line["step"] in set(steps)}
    if not values:
        return None
    return (min if which == "min" else max)(values, key=lambda step: values[step])
