"""From a trainer's checkpoint to a tokenizer in our names: reads it, finds the weights, converts them by their layout.

Nothing in a checkpoint is executed. Pickles go through torch's weights_only reader. What trainers store next to the
weights (callbacks, settings) is read as inert placeholders if it is known to be harmless data; any other object is
refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from launch.checkpoints.names import unwrapped
from launch.command.cli import UserError, one_line
from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.foreign.base import Converted, Source, WrongLayoutError, find

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".th")
SUFFIXES = (".safetensors", *PICKLES)
BOOKKEEPING = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "numpy.", "typing.", "pathlib.")
"""Packages whose objects in a checkpoint are settings and counters; they are not read."""
BOOKKEEPING_NAMES = ("argparse.Namespace", "collections.defaultdict", "_codecs.encode", "builtins.int", "builtins.list")
PREFIXES = ("first_stage_model.", "vqgan.", "vae.", "network.")
"""Prefixes that larger models put before a tokenizer's names."""

BLOCKS = ("quantizer", "video", "seanet", "vocos")
"""Blocks of the model's settings, in which a change leaves the others as they are."""


class Unread:
    """Placeholder for an object that isn't needed: accepts anything, does nothing."""

    def __init__(self, *values: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class Checkpoint:
    """A foreign checkpoint's content."""

    path: Path
    content: dict[str, Any]
    """Its top level: tensors, or dictionaries of them."""
    settings: dict[str, Any]
    """The peer's own configuration, {} if there is none."""
    settings_path: Path | None

    @property
    def sha256(self) -> str:
        """The file's hash, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(source: Path, settings: Path | None) -> Checkpoint:
    """Read a checkpoint: a file, or a folder with one, and the configuration `settings` or the only one in the folder.

    Raises UserError if either can't be read.
    """
    path = _weights_file(source)
    if settings is None and source.is_dir():
        configs = sorted([*path.parent.glob("*.yaml"), *path.parent.glob("*.yml"), *path.parent.glob("config.json")])
        settings = configs[0] if len(configs) == 1 else None
    return Checkpoint(path, read_tensors(path), read_settings(settings), settings)


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise UserError(f"{source} is neither a file nor a folder: give a checkpoint")
    for folder in (source, source / "vqvae", source / "vae", source / "movq"):
        files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and path.is_file())
        stock = [path for path in files if path.name == "diffusion_pytorch_model.safetensors"]
        if stock or len(files) == 1:
            return (stock or files)[0]
        if files:
            names = ", ".join(path.name for path in files[:4])
            raise UserError(f"{folder} holds several checkpoints ({names}): give one of them")
    raise UserError(f"{source} holds no checkpoint ({', '.join('*' + suffix for suffix in SUFFIXES)}): give the file")


def read_tensors(path: Path) -> dict[str, Any]:
    """The top-level dictionary of a checkpoint; UserError if it can't be read safely or isn't a dictionary."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is not a complete safetensors file ({_line(error)}): download it again") from error
    if path.suffix not in PICKLES:
        raise UserError(f"{path} must end in one of {', '.join(SUFFIXES)}: give a checkpoint, or rename the file")
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of weights: save its state_dict")
    return dict(content)


def _unpickle(path: Path) -> Any:
    try:
        try:
            foreign = get_unsafe_globals_in_checkpoint(path)
        except ValueError:  # written before torch 1.6: not a zip file
            foreign = []
        unknown = [name for name in foreign if not (name.startswith(BOOKKEEPING) or name in BOOKKEEPING_NAMES)]
        if unknown:
            raise UserError(
                f"{path} holds objects that aren't tensors ({', '.join(sorted(unknown)[:3])}); loading them would run "
                f"their code: if you trust the file, save its state_dict alone with torch.save, and convert that"
            )
        stands: list[Any] = [(dict if name.endswith(".AttributeDict") else Unread, name) for name in foreign]
        with safe_globals(stands):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise UserError(
            f"{path} can't be read as weights only ({_line(error)}): download it again, or, if you trust it, save its "
            f"state_dict alone with torch.save, and convert that"
        ) from error


def read_settings(path: Path | None) -> dict[str, Any]:
    """A peer's YAML or JSON file as plain values; UserError if it is neither."""
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"config={path} is neither readable YAML nor JSON ({_line(error)}): give another") from error
    if not isinstance(values, dict):
        raise UserError(f"config={path} holds no settings: give the file with the model's configuration")
    return values


def tensors_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a dictionary."""
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


def _line(error: BaseException) -> str:
    """An error's message in one line of moderate length."""
    if match := re.search(r"GLOBAL (\S+) was not an allowed", str(error)):
        return f"it holds {match[1]}, which is not a tensor"
    return one_line(error, 160)


def source_of(checkpoint: Checkpoint, layout: str, averaged: bool, changes: Mapping[str, Any]) -> Source:
    """The tokenizer's and the discriminator's tensors in a checkpoint of any trainer.

    Raises UserError if there are none.
    """
    content = checkpoint.content
    for key in ("ema", "model", "state_dict", "module", "generator", "best_state"):
        if key == "ema" and not averaged:
            continue
        if isinstance(content.get(key), Mapping) and tensors_in(content[key]):
            state = tensors_in(content[key])
            break
    else:
        state = tensors_in(content)
    if not state:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise UserError(f"{checkpoint.path} holds no weights of a model (its keys: {keys}): give another checkpoint")
    state = _alone(unwrapped(state, str(checkpoint.path)))
    theirs = {name: tensor for name, tensor in state.items() if name.startswith("loss.disc")}
    discriminator = {name.removeprefix("loss.discriminator."): tensor for name, tensor in theirs.items()}
    separate = content.get("discriminator")
    if isinstance(separate, Mapping):
        discriminator = unwrapped(tensors_in(separate), str(checkpoint.path))
    if averaged:
        state |= _averaged(state)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    dropped = ("loss.", "model_ema.", "inception_model.", "lpips_")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(dropped)}
    settings = checkpoint.settings or find(content, "metadata", "kwargs") or {}
    return Source(layout, str(checkpoint.path), weights, discriminator, dict(settings), changes)


def _alone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Only the tokenizer out of a larger model."""
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if "encoder.conv_in.weight" in inside or (inside and len(inside) == len(state)):
            state = inside
    return state


def _averaged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averages by their weights' names: Lightning trainers keep them as model_ema.<name without dots>."""
    plain = {name.replace(".", ""): name for name in state if not name.startswith("model_ema.")}
    averages = {name.removeprefix("model_ema."): t for name, t in state.items() if name.startswith("model_ema.")}
    return {plain[name]: tensor for name, tensor in averages.items() if name in plain}


def convert_checkpoint(
    checkpoint: Checkpoint, layout: str, *, averaged: bool = True, changes: Mapping[str, Any] | None = None
) -> tuple[Converted, Source]:
    """A checkpoint in our names and settings; `changes` are settings of the model that it doesn't state.

    Raises UserError if it has another layout, or parts that can't be built.
    """
    changes = changes or {}
    source = source_of(checkpoint, layout, averaged, changes)
    try:
        converted = LAYOUTS[layout].convert(source)
    except WrongLayoutError as error:
        likely = next((name for name, other in LAYOUTS.items() if other.key in source.weights), None)
        hint = f"it looks like --from {likely}" if likely not in (None, layout) else "is it another model's checkpoint?"
        raise UserError(f"{error}: {hint}") from error
    blocks = {name: {**converted.model.get(name, {}), **value} for name, value in changes.items() if name in BLOCKS}
    model = {**converted.model, **changes, **blocks}
    weights = {name: tensor.contiguous() for name, tensor in converted.weights.items()}
    return replace(converted, model=model, weights=weights), source
