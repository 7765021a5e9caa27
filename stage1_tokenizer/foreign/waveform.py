"""What the layouts of networks for sound share: weight norms, and SEANet's numbered layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launch.command.cli import UserError
from stage1_tokenizer.foreign.base import Source, Weights, count, find, need, renamed

if TYPE_CHECKING:
    from torch import Tensor

NORMS = [
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
]
"""Names of a weight norm before torch 2, and ours."""
LENGTH, DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


def folded(weights: Mapping[str, Tensor], where: str = "") -> Weights:
    """Weight norms multiplied out, of names that match `where`: w = g·v/‖v‖ (Salimans and Kingma 2016, eq. 2)."""
    result: Weights = {}
    for name, tensor in weights.items():
        if not re.match(where, name) or not name.endswith((LENGTH, DIRECTION)):
            result[name] = tensor
        elif name.endswith(DIRECTION):
            length = weights[name.replace(DIRECTION, LENGTH)]
            norm = tensor.flatten(1).norm(dim=1).view(length.shape)
            result[name.removesuffix(DIRECTION) + ".weight"] = tensor * (length / norm)
    return result


def kernel(weights: Mapping[str, Tensor], name: str, source: Source) -> Tensor:
    """A convolution's kernel, or its direction under a weight norm: for shapes."""
    normed = weights.get(name + DIRECTION)
    return need(weights, name + ".weight", source) if normed is None else normed


def shaped(weights: Weights, source: Source) -> dict[str, Any]:
    """Settings of seanet that the shapes of the weights, by our names, determine; and those of the model around it.

    The decoder may be of another kind.
    """
    first = kernel(weights, "encoder.conv_in.conv", source)
    unit = kernel(weights, "encoder.stages.0.units.0.conv1.conv", source)
    stages = count(weights, r"encoder\.stages\.(\d+)\.")
    resampled = [kernel(weights, f"encoder.stages.{stage}.resample.conv", source) for stage in range(stages)]
    last = kernel(weights, "encoder.conv_out.conv", source)
    if first.shape[-1] != 7:
        raise UserError(f"{source.where} begins with a kernel of {first.shape[-1]}, not 7: not supported")
    settings: dict[str, Any] = {
        "strides": [each.shape[-1] // 2 for each in resampled],
        "kernels": [unit.shape[-1], last.shape[-1], 7],
        "compress": unit.shape[1] // unit.shape[0],
        "shortcut": "conv" if any(".shortcut." in name for name in weights) else "input",
        "lstm": count(weights, r"encoder\.lstm\.lstm\.weight_ih_l(\d+)"),
        "layers": count(weights, r"encoder\.transformer\.blocks\.(\d+)\."),
        "weight_norm": any(name.endswith(LENGTH) for name in weights),
    }
    if any(name.startswith("decoder.stages.") for name in weights):
        end = kernel(weights, "decoder.conv_out.conv", source)
        settings["kernels"][2] = end.shape[-1]
        if end.shape[1] != len(first):
            settings["decoder_channels"] = end.shape[1]
    return {
        "backbone": "seanet",
        "seanet": settings,
        "spatial_dims": 1,
        "in_channels": first.shape[1],
        "channels": len(first),
        "z_channels": len(last),
        "quant_conv_kernel": 0,
    }


def numbered(weights: Weights, source: Source, sides: Sequence[str] = ("encoder", "decoder")) -> Weights:
    """SEANet's layers, `encoder.layers.N` and `decoder.layers.N`, by our names.

    Residual units have a `block`; the first and the last of the other convolutions are those of the ends, the rest
    change the resolution: after a stage's units in the encoder, before them in the decoder.
    """
    rules: list[tuple[str, str]] = []
    for side in sides:
        numbers = sorted({int(m[1]) for name in weights if (m := re.match(rf"{side}\.layers\.(\d+)\.", name))})
        plain = [n for n in numbers if any(name.startswith(f"{side}.layers.{n}.conv.") for name in weights)]
        if len(plain) < 3:
            need({}, f"{side}.layers.3.conv.weight", source)
        stage, unit = 0 if side == "encoder" else -1, 0
        for number in numbers:
            at = rf"^{side}\.layers\.{number}\."
            if number in (plain[0], plain[-1]):
                rules.append((at, f"{side}.{'conv_in' if number == plain[0] else 'conv_out'}."))
            elif number in plain:
                stage, unit = stage + (side == "decoder"), 0
                rules.append((at, f"{side}.stages.{stage}.resample."))
                stage += side == "encoder"
            elif f"{side}.layers.{number}.lstm.weight_ih_l0" in weights:
                rules.append((at, f"{side}.lstm."))
            else:
                unit_at = f"{side}.stages.{stage}.units.{unit}."
                rules += [(at + r"block\.1\.", unit_at + "conv1."), (at + r"block\.3\.", unit_at + "conv2.")]
                rules.append((at, unit_at))
                unit += 1
    return renamed(weights, rules)


def dilations(weights: Weights, source: Source) -> list[int]:
    """Of a stage's residual units: powers of the peer's `dilation_growth_rate`, which isn't in the weights."""
    rate = int(find(source.settings, "dilation_growth_rate") or 2)
    return [rate**number for number in range(count(weights, r"encoder\.stages\.0\.units\.(\d+)\."))]


def refuse(source: Source, **values: Any) -> None:
    """UserError for settings of a peer that differ from the only ones that are supported."""
    odd = {name: source.settings[name] for name, only in values.items() if source.settings.get(name, only) != only}
    if odd:
        shown = ", ".join(f"{name}={value}" for name, value in odd.items())
        raise UserError(f"{source.where} has {shown}, which is not supported")
