"""Look at a run's checkpoints: `python -m launch.checkpoint RUN --list | --verify | --export FOLDER [--step N]`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.checkpoints import store as checkpoint
from launch.checkpoints.pieces import SUFFIX
from launch.command.cli import UserError, parse, run


@dataclass(frozen=True)
class CheckpointConfig:
    """Look at a run's checkpoints: --list, --verify or --export FOLDER."""

    run: Path
    """The run's folder; the first word."""
    list: bool = False
    """Show steps, sizes and parts of all checkpoints."""
    verify: bool = False
    """Compare every file with its size and hash."""
    export: Path | None = None
    """Folder to which a checkpoint's networks are written as safetensors."""
    step: int | None = None
    """Which checkpoint to export; null: the newest valid one."""

    def __post_init__(self) -> None:
        if (self.list, self.verify, self.export is not None).count(True) != 1:
            raise ValueError("give one of --list, --verify and --export FOLDER")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where --verify finds damage."""
    options = parse(CheckpointConfig, argv, prog="python -m launch.checkpoint RUN", positional=("run",))
    found = checkpoint.steps(options.run)
    if not found:
        raise UserError(f"{options.run} holds no checkpoints: name a run's folder")
    folders = {step: options.run / checkpoint.FOLDER / f"{checkpoint.PREFIX}{step:09d}" for step in found}
    if options.export:
        return export(folders, options.step, options.export)
    damaged = 0
    for step, folder in folders.items():
        damage = checkpoint.verify(folder) if options.verify else None
        damaged += damage is not None
        print(f"{step:>9}  {damage or described(folder)}")
    return int(damaged > 0)


def described(folder: Path) -> str:
    """A checkpoint's size, ranks and parts in one line."""
    try:
        manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
        size = sum(entry["size"] for entry in manifest["files"].values())
        parts = sorted({re.sub(r"\.part\d+\.", ".part*.", name) for name in manifest["files"]})
        return f"{size / 1e6:.1f} MB, {manifest['world_size']} ranks: {', '.join(parts)}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{checkpoint.MANIFEST} is missing or can't be read"


def export(folders: dict[int, Path], step: int | None, out: Path) -> int:
    """Write each part that holds a network's tensors as OUT/NAME.safetensors, put together where it is in pieces."""
    from safetensors.torch import save_file

    if step is not None and step not in folders:
        raise UserError(f"--step={step} is not there: choose one of {', '.join(map(str, folders))}")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} isn't empty: choose another folder")
    whole = [one for one in ([step] if step is not None else folders) if checkpoint.verify(folders[one]) is None]
    if not whole:
        raise UserError(f"no such checkpoint is whole: look with --verify at {next(iter(folders.values())).parent}")
    out.mkdir(parents=True, exist_ok=True)
    for name, state in networks(folders[whole[0]]):
        save_file({key: value.clone().contiguous() for key, value in state.items()}, out / f"{name}.safetensors")
        print(f"{out / name}.safetensors: {len(state)} tensors of step {whole[0]}")
    return 0


def networks(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and tensors of each part of a checkpoint that is a network, not an optimizer or anything else."""
    import torch

    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    for path in sorted(folder.glob("*.pt")):
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values()):
            yield path.stem, state
    for name in sorted({file.partition(".part")[0] for file in manifest["files"] if file.endswith(SUFFIX)}):
        reader = checkpoint.pieces(folder, manifest, name)
        if not any("/" in key for key in reader.shapes):  # an optimizer has its values under exp_avg/ and so on
            yield name, {key: reader.whole(key) for key in sorted(reader.shapes)}


if __name__ == "__main__":
    run(main)
