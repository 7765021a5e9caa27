"""The networks of a checkpoint as safetensors files, for `python -m launch.checkpoint RUN --export FOLDER`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from launch.checkpoints import folders
from launch.checkpoints.pieces import SUFFIX
from launch.checkpoints.store import pieces
from launch.command.cli import UserError
from launch.files.outputs import output, try_folder


def export(run: Path, step: int | None, out: Path) -> None:
    """Write each network of a checkpoint as OUT/NAME.safetensors, put together where it was saved in pieces."""
    steps = folders.steps(run)
    if step is not None and step not in steps:
        raise UserError(f"step={step} is not there: choose one of {', '.join(map(str, steps))}")
    try_folder("export", out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"export={out} isn't empty: choose another folder")
    chosen = steps if step is None else [step]
    valid = next((one for one in chosen if folders.verify(folders.place(run, one)) is None), None)
    if valid is None:
        raise UserError(f"no such checkpoint is valid: look with --verify at {run}")
    with output(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, state in networks(folders.place(run, valid)):
        with output(out):
            save_file({key: value.clone().contiguous() for key, value in state.items()}, out / f"{name}.safetensors")
        print(f"{out / name}.safetensors: {len(state)} tensors of step {valid}")


def networks(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and tensors of each part of a checkpoint that is a network, not an optimizer or anything else."""
    for file in sorted(path.glob("*.pt")):
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values()):
            yield file.stem, state
    manifest = json.loads((path / folders.MANIFEST).read_text())
    for name in sorted({file.partition(".part")[0] for file in manifest["files"] if file.endswith(SUFFIX)}):
        reader = pieces(path, manifest, name)
        if not any("/" in key for key in reader.shapes):  # an optimizer has its values under exp_avg/ and so on
            yield name, reader.all()


def part_in_pieces(path: Path, name: str) -> dict[str, torch.Tensor] | None:
    """All tensors of a network that a checkpoint holds in pieces, put together; None where it holds no such pieces."""
    manifest = json.loads((path / folders.MANIFEST).read_text())
    reader = pieces(path, manifest, name)
    return reader.all() if reader.shapes else None
