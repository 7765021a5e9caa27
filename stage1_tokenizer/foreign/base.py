"""What every layout's module shares: names, shapes and settings read off a state's keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from launch.command.cli import UserError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A peer's weights and settings, before its names are turned into ours."""

    where: str
    """The file, for messages."""
    weights: Weights
    """The tokenizer's tensors by the peer's names, averaged ones in place of the last ones if so wished."""
    discriminator: Weights
    """The discriminator's by the peer's names, {} where the checkpoint has none."""
    settings: dict[str, Any]
    """The peer's own configuration file, {} without one."""


@dataclass(frozen=True)
class Converted:
    """A peer's tokenizer in our names."""

    model: dict[str, Any]
    """Settings of ModelConfig, as nested dictionaries."""
    weights: Weights
    """Its tensors by our names."""
    size: int | None = None
    """Side of the pictures it was trained on, where the peer's settings tell."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of the conversion."""


Layout = Callable[[Source], Converted]


def need(weights: Mapping[str, Tensor], name: str, source: Source, layout: str) -> Tensor:
    """A tensor that tells a shape; UserError, with a guess at the right layout, where it is missing."""
    if name in weights:
        return weights[name]
    likely = recognise(source.weights)
    hint = f"it looks like --from {likely}" if likely and likely != layout else "is it another model's checkpoint?"
    first = ", ".join(list(source.weights)[:3]) or "none"
    raise UserError(f"{source.where} isn't {layout}'s layout, it has no {name} (its first keys: {first}): {hint}")


SIGNATURES = (
    ("diffusers", "encoder.down_blocks.0.resnets.0.conv1.weight"),
    ("llamagen", "encoder.conv_blocks.0.res.0.conv1.weight"),
    ("var", "encoder.mid.attn_1.qkv.weight"),
    ("simvq", "quantize.embedding_proj.weight"),
    ("open_magvit2", "decoder.adaptive.0.gamma.weight"),
    ("maskgit", "decoder.up.1.upsample_conv.weight"),
    ("taming", "encoder.down.0.block.0.conv1.weight"),
)
"""A key of each layout that those after it lack; IBQ's keys are taming's."""


def recognise(weights: Mapping[str, Tensor]) -> str | None:
    """The layout that the keys suggest."""
    return next((layout for layout, key in SIGNATURES if key in weights), None)


def renamed(weights: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> Weights:
    """Names with regular expressions replaced, in turn."""
    found: Weights = {}
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    for name, tensor in weights.items():
        for pattern, new in compiled:
            name = pattern.sub(new, name)
        found[name] = tensor
    return found


def levels_turned(name: str, levels: int) -> str:
    """A name of ours with the decoder's levels counted from the other end; twice gives the name again."""
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", name)


def without(weights: Mapping[str, Tensor], *names: str) -> Weights:
    """All but the named tensors."""
    return {name: tensor for name, tensor in weights.items() if name not in names}


def count(weights: Iterable[str], pattern: str) -> int:
    """How many numbers the first group of a pattern takes, from 0 to the highest one."""
    numbers = [int(found[1]) for name in weights if (found := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def networks(weights: Weights, source: Source, layout: str) -> dict[str, Any]:
    """The settings of encoder and decoder, of either backbone, that our names and their shapes tell.

    Raises UserError where the keys aren't such networks', or widths aren't multiples of the first.
    """
    first = need(weights, "encoder.conv_in.weight", source, layout)
    need(weights, "encoder.down.0.block.0.conv1.weight", source, layout)
    channels, levels = len(first), count(weights, r"encoder\.down\.(\d+)\.")
    blocks = count(weights, r"encoder\.down\.0\.block\.(\d+)\.")
    widths = [
        len(need(weights, f"encoder.down.{level}.block.{blocks - 1}.conv2.weight", source, layout))
        for level in range(levels)
    ]
    odd = [width for width in widths if width % channels]
    if odd:
        raise UserError(
            f"{source.where} has levels of {odd[0]} channels, no multiple of the first {channels}: not built here"
        )
    return {
        "in_channels": first.shape[1],
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "res_blocks": blocks,
        "z_channels": need(weights, "decoder.conv_in.weight", source, layout).shape[1],
    }


def with_attention(weights: Weights, levels: int) -> dict[str, Any]:
    """The settings of the `conv` backbone's attention that our names tell."""
    at = [number for number in range(levels) if f"encoder.down.{number}.attn.0.q.weight" in weights]
    middle = "encoder.mid.attn_1.q.weight" in weights
    if not at and not middle:
        return {"attention": False}
    return {"attention_levels": None if at == [levels - 1] else at, "attention_middle": middle}


def conv_model(weights: Weights, source: Source, layout: str) -> dict[str, Any]:
    """The settings of a `conv` model without its quantizer."""
    model = networks(weights, source, layout)
    kernel = need(weights, "quant_conv.weight", source, layout).shape[-1]
    return model | with_attention(weights, len(model["channel_multipliers"])) | {"quant_conv_kernel": kernel}


def find(settings: Any, *path: str) -> Any:
    """A nested setting; None where it isn't there."""
    for key in path:
        if not isinstance(settings, Mapping):
            return None
        settings = settings.get(key)
    return settings


def lightning(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's parameters in a Lightning configuration: `params` of the older kind, `init_args` of the newer."""
    return find(settings, "model", "params") or find(settings, "model", "init_args") or {}


def lightning_size(settings: Mapping[str, Any]) -> int | None:
    """The side of the training pictures in a Lightning configuration; the data's word counts before the model's."""
    for data in (find(settings, "data", "params"), find(settings, "data", "init_args")):
        for part in ("train", "validation"):
            for path in ((part, "params", "config", "size"), (part, "params", "size")):
                if isinstance(size := find(data, *path), int):
                    return size
    size = find(lightning(settings), "ddconfig", "resolution")
    return size if isinstance(size, int) else None


def dropout(settings: Mapping[str, Any]) -> float:
    """The dropout in a Lightning configuration; 0 where it says none."""
    return float(find(lightning(settings), "ddconfig", "dropout") or 0.0)
