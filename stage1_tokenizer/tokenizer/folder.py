"""A tokenizer's folder of stock formats, and the fingerprint that ties codes and priors to it.

FOLDER/config.json                what the networks are (ModelConfig)
FOLDER/model.safetensors          their weights
FOLDER/preprocessor_config.json   how pictures were prepared for them (Transform)
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.media import Transform, read_transform
from launch.checkpoints.names import unwrapped
from launch.command.cli import UserError
from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.tokenizer.codec import Codec

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
MODEL_TYPE = "vqloom_tokenizer"
FORMAT = 1
OF_CODES = ("encoder", "quant_conv", "quantizer")
"""The parts of a tokenizer that decide which codes a sample gets."""


def fingerprint(config: ModelConfig, weights: dict[str, Tensor]) -> str:
    """sha256 (hex) over the configuration and every weight.

    Settings at their defaults are left out, so that a setting added later doesn't change it. Device and order of the
    weights don't matter.
    """
    return _digest(hashlib.sha256(json.dumps(_changed(config), sort_keys=True).encode()), weights)


def _digest(digest: Any, weights: dict[str, Tensor]) -> str:
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return str(digest.hexdigest())


def code_weights(weights: dict[str, Tensor]) -> str:
    """sha256 (hex) over the weights that decide which codes a sample gets: all but the decoder's."""
    ours = {name: tensor for name, tensor in weights.items() if name.split(".")[0] in OF_CODES}
    return _digest(hashlib.sha256(), ours)


def codes_of(claim: Any, codec: Codec) -> str | None:
    """The fingerprint of the tokenizer whose codes `codec` has, by a claim {fingerprint, weights} that it is made with;
    None without one, and where the codec's encoder and quantizer are not those of the claim."""
    if not isinstance(claim, dict) or claim.get("weights") != code_weights(codec.weights()):
        return None
    return str(claim["fingerprint"])


def save(folder: Path, codec: Codec, transform: Transform | None, codes_of: str | None = None) -> None:
    """Write config.json, model.safetensors and, if the transform is known, preprocessor_config.json into a folder.

    `codes_of` is the fingerprint of the tokenizer whose codes it has, if that is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = codec.weights()
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["Tokenizer"],
        "format": FORMAT,
        "codebook_size": codec.codebook_size,
        "stride": codec.stride,
        "fingerprint": fingerprint(codec.config, weights),
        **({"codes_of": {"fingerprint": codes_of, "weights": code_weights(weights)}} if codes_of else {}),
        "model": dataclasses.asdict(codec.config),
    }
    _write_json(folder / CONFIG, config)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if transform is not None:
        _write_json(folder / PREPROCESSOR, {"value_range": [-1.0, 1.0], "transform": transform.to_dict()})


def read_settings(folder: Path) -> tuple[ModelConfig, Transform | None, str | None]:
    """Configuration, transform and fingerprint stated in a folder's JSON; UserError if it isn't a tokenizer."""
    values = _read_config(folder)
    config = model_config(values["model"], folder / CONFIG)
    path, transform = folder / PREPROCESSOR, None
    try:
        if path.exists():
            transform = read_transform(json.loads(path.read_text())["transform"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): release the tokenizer again") from error
    return config, transform, values.get("fingerprint")


def load_weights(folder: Path, codec: Codec, stated: str | None) -> str | None:
    """Fill `codec` with the folder's weights; UserError if they don't fit or aren't those of the stated fingerprint.

    Returns the fingerprint of the tokenizer whose codes it has, if that is another one.
    """
    try:
        weights = unwrapped(load_file(folder / WEIGHTS), str(folder / WEIGHTS))
        _take_types(codec, weights)
        codec.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / WEIGHTS} can't be loaded ({reason}): release the tokenizer again") from error
    if stated not in (None, fingerprint(codec.config, codec.weights())):
        raise UserError(
            f"{folder} was altered: its weights or settings don't match the fingerprint in {CONFIG}: "
            f"download or release it again"
        )
    return codes_of(_read_config(folder).get("codes_of"), codec)


def _take_types(codec: Codec, weights: dict[str, Tensor]) -> None:
    """Give each part of a codec the type that its weights have in a file; parts without any the type of the others."""
    floating = {name: tensor.dtype for name, tensor in weights.items() if tensor.is_floating_point()}
    for part, of_part in [("", codec), *((f"{name}.", child) for name, child in codec.named_children())]:
        types = {kind for name, kind in floating.items() if name.startswith(part)}
        if types and not (part and len(types) > 1):
            of_part.to(min(types, key=lambda kind: (kind.itemsize, str(kind))))


def _changed(config: Any) -> dict[str, Any]:
    """The settings that differ from their defaults, nested dataclasses as nested dictionaries."""
    changed: dict[str, Any] = {}
    default = type(config)()
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        value = list(value) if isinstance(value, tuple) else value
        if value != usual:
            changed[field.name] = _changed(value) if dataclasses.is_dataclass(value) else value
    return changed


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a released tokenizer, it has no {CONFIG}: "
            f"create one with `python -m stage1_tokenizer.release`"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} can't be read ({error}): release the tokenizer again") from error
    if not isinstance(values, dict) or values.get("model_type") != MODEL_TYPE or "model" not in values:
        raise UserError(f"{folder / CONFIG} doesn't describe a tokenizer: its model_type is not {MODEL_TYPE}")
    if values.get("format") != FORMAT:
        raise UserError(f"{folder / CONFIG} has format {values.get('format')}, this version reads {FORMAT}: update it")
    return values


def model_config(values: dict[str, Any], source: Path) -> ModelConfig:
    """ModelConfig from its JSON; UserError for a key or a value that this version doesn't know."""
    try:
        return built(ModelConfig, values)
    except (TypeError, ValueError) as error:
        known = ", ".join(get_type_hints(ModelConfig))
        raise UserError(f"{source}: model can't be read ({error}); this version knows {known}") from error


def built(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass from its JSON, nested ones included."""
    types = get_type_hints(kind)
    nested = {key: built(types[key], values[key]) for key in values if dataclasses.is_dataclass(types.get(key))}
    return kind(**{**values, **nested})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
