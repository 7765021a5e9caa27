"""What the layouts share: names, shapes and settings read from a state's keys. No torch, for a fast --help."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from launch.command.cli import UserError

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "dict[str, Tensor]"


@dataclass(frozen=True)
class Source:
    """A peer's weights and settings, before its names are turned into ours."""

    layout: str
    """The layout's name in LAYOUTS; for messages, as the file is."""
    where: str
    weights: Weights
    """The tokenizer's tensors by the peer's names; averaged ones if requested."""
    discriminator: Weights
    """The discriminator's by the peer's names, {} where the checkpoint has none."""
    settings: dict[str, Any]
    """The peer's own configuration file, {} without one."""
    changes: Mapping[str, Any]
    """Settings of ModelConfig that the user gives, as nested dictionaries."""


@dataclass(frozen=True)
class Converted:
    """A peer's tokenizer in our names."""

    model: dict[str, Any]
    """Settings of ModelConfig, as nested dictionaries."""
    weights: Weights
    """Its tensors by our names."""
    size: int | None = None
    """Side of its training pictures, if the peer's settings state it."""
    notes: list[str] = field(default_factory=list)
    """What a user should know about the conversion."""
    rate: int | None = None
    """Samples a second of its sounds, if the peer's settings state it."""


@dataclass(frozen=True)
class Layout:
    """How one project's checkpoints are converted."""

    convert: Callable[[Source], Converted]
    key: str | None = None
    """A key that its checkpoints have and those of the layouts after it in the table lack; None: not recognised."""


class WrongLayoutError(UserError):
    """A checkpoint lacks a tensor that its layout has."""


def need(weights: Mapping[str, Tensor], name: str, source: Source) -> Tensor:
    """A tensor that determines a shape; WrongLayoutError if it is missing."""
    if name in weights:
        return weights[name]
    first = ", ".join(list(source.weights)[:3]) or "none"
    raise WrongLayoutError(
        f"{source.where} isn't in {source.layout}'s layout, it has no {name} (its first keys: {first})"
    )


def renamed(weights: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> Weights:
    """Names with regular expressions replaced, in turn."""
    result: Weights = {}
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    for name, tensor in weights.items():
        for pattern, new in compiled:
            name = pattern.sub(new, name)
        result[name] = tensor
    return result


def levels_turned(name: str, levels: int) -> str:
    """One of our names with the decoder's levels counted from the other end; applied twice it is the same name."""
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.up.{levels - 1 - int(match[1])}.", name)


def without(weights: Mapping[str, Tensor], *names: str) -> Weights:
    """All but the named tensors."""
    return {name: tensor for name, tensor in weights.items() if name not in names}


def count(weights: Iterable[str], pattern: str) -> int:
    """Highest number that the first group of a pattern takes, plus 1."""
    numbers = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def networks(weights: Weights, source: Source) -> dict[str, Any]:
    """Settings of encoder and decoder, of either backbone, from our names and their shapes.

    Raises UserError if the keys are of other networks, or if widths aren't multiples of the first.
    """
    first = need(weights, "encoder.conv_in.weight", source)
    need(weights, "encoder.down.0.block.0.conv1.weight", source)
    channels, levels = len(first), count(weights, r"encoder\.down\.(\d+)\.")
    blocks = count(weights, r"encoder\.down\.0\.block\.(\d+)\.")
    widths = [
        len(need(weights, f"encoder.down.{level}.block.{blocks - 1}.conv2.weight", source)) for level in range(levels)
    ]
    odd = [width for width in widths if width % channels]
    if odd:
        raise UserError(
            f"{source.where} has levels of {odd[0]} channels, not a multiple of the first {channels}: not supported"
        )
    return {
        "in_channels": first.shape[1],
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "res_blocks": blocks,
        "z_channels": need(weights, "decoder.conv_in.weight", source).shape[1],
    }


def conv_model(weights: Weights, source: Source) -> dict[str, Any]:
    """The settings of a `conv` model without its quantizer."""
    model = networks(weights, source)
    levels = len(model["channel_multipliers"])
    at = [number for number in range(levels) if f"encoder.down.{number}.attn.0.q.weight" in weights]
    middle = "encoder.mid.attn_1.q.weight" in weights
    attention: dict[str, Any] = {"attention": False}
    if at or middle:
        attention = {"attention_levels": None if at == [levels - 1] else at, "attention_middle": middle}
    return model | attention | {"quant_conv_kernel": need(weights, "quant_conv.weight", source).shape[-1]}


def codebook(
    weights: Weights, source: Source, name: str = "quantizer.embedding.weight", **others: Any
) -> dict[str, Any]:
    """The settings of a quantizer with a learned codebook, whose shape is that of the tensor `name`."""
    codes, dim = need(weights, name, source).shape
    return {"codebook_size": codes, "code_dim": dim, **others}


def find(settings: Any, *path: str) -> Any:
    """A nested setting; None if it isn't there."""
    for key in path:
        if not isinstance(settings, Mapping):
            return None
        settings = settings.get(key)
    return settings


def lightning(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's parameters in a Lightning configuration: `params` of the older kind, `init_args` of the newer."""
    return find(settings, "model", "params") or find(settings, "model", "init_args") or {}


def lightning_size(settings: Mapping[str, Any]) -> int | None:
    """Side of the training pictures in a Lightning configuration; the data's setting wins over the model's."""
    for data in (find(settings, "data", "params"), find(settings, "data", "init_args")):
        for part in ("train", "validation"):
            for path in ((part, "params", "config", "size"), (part, "params", "size")):
                if isinstance(size := find(data, *path), int):
                    return size
    size = find(lightning(settings), "ddconfig", "resolution")
    return size if isinstance(size, int) else None
