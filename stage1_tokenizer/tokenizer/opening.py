"""A tokenizer from a released folder or from a run's newest checkpoint."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.media import read_transform
from launch.checkpoints import folders
from launch.checkpoints.export import part_in_pieces
from launch.checkpoints.names import unwrapped
from launch.command.cli import UserError, one_line
from launch.files.inputs import settings_of
from launch.run.folder import CONFIG, ORIGIN
from stage1_tokenizer.kernels.install import install_for_all
from stage1_tokenizer.tokenizer.codec import PROJECTOR
from stage1_tokenizer.tokenizer.folder import codes_of, model_config
from stage1_tokenizer.tokenizer.model import Tokenizer


@dataclass(frozen=True)
class OpenedRun:
    """A run's newest checkpoint and what its folder says about it."""

    folder: Path
    tokenizer: Tokenizer
    """The averaged weights, in evaluation mode, on the CPU."""
    step: int
    checkpoint: Path
    """The checkpoint's folder."""
    config: dict[str, Any]
    """The run's resolved configuration."""
    origin: dict[str, Any]
    """run.json: commit, versions, hardware."""


def open_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a released folder or of a run folder; UserError if it is neither."""
    return open_run(Path(folder)).tokenizer if (Path(folder) / CONFIG).exists() else Tokenizer.from_pretrained(folder)


def open_run(folder: Path) -> OpenedRun:
    """Load the averaged weights of the newest whole checkpoint; UserError if the folder has none."""
    if not (folder / CONFIG).exists():
        raise UserError(f"run={folder} is not a run folder, it has no {CONFIG}: give the run.folder of a training run")
    config = settings_of(folder / CONFIG)
    if "model" not in config or "transform" not in (config.get("data") or {}):
        raise UserError(f"run={folder} is not a tokenizer's run: give a run of stage1_tokenizer.train")
    transform = read_transform(config["data"]["transform"])
    tokenizer = Tokenizer(model_config(config["model"], folder / CONFIG), transform)
    for step in folders.steps(folder):
        place = folder / folders.FOLDER / f"{folders.PREFIX}{step:09d}"
        if folders.verify(place) is None:
            state = saved_network(place, "ema")
            state = read_state(place / "ema.pt") if state is None else state
            own = {name: weight for name, weight in state.items() if not name.startswith(f"{PROJECTOR}.")}
            tokenizer.load_state_dict(own)
            install_for_all(tokenizer)
            origin = settings_of(folder / ORIGIN) if (folder / ORIGIN).exists() else {}
            begun = [start["init"] for start in origin.get("starts", []) if "init" in start]
            tokenizer.codes_of = codes_of(begun[-1].get("codes"), tokenizer) if begun else None
            return OpenedRun(folder, tokenizer.eval(), step, place, config, origin)
    raise UserError(f"run={folder} has no whole checkpoint: let it train until its first one, or resume it")


def saved_network(place: Path, name: str) -> dict[str, Any] | None:
    """A network's state in a checkpoint, saved whole or in pieces; None where it has no such network.

    UserError for a file that holds more than tensors and plain values.
    """
    if (place / f"{name}.pt").is_file():
        return read_state(place / f"{name}.pt")
    return part_in_pieces(place, name)


def read_state(path: Path) -> dict[str, Any]:
    """A network's state in a checkpoint; UserError for a file that holds more than tensors and plain values."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} can't be read safely ({one_line(error, 120)}): it holds more than weights or is "
            f"damaged: use an older checkpoint"
        ) from error
    return unwrapped(state, str(path))
