"""Cosmos' discrete tokenizers of videos (DV): their state, `model.pt` of a post-training; not the TorchScript files.

The strides can't be seen in the weights. They are those of `spatial_compression` and `temporal_compression`, from
`--config`, or `--model.video.time_strides` and `space_strides`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from launch.command.cli import UserError
from stage1_tokenizer.config.video_networks import decoder_strides
from stage1_tokenizer.foreign.base import Converted, Source, Weights, find, need, networks, renamed, without

if TYPE_CHECKING:
    from torch import Tensor

RULES = [
    (r"\.conv3d\.", "."),
    (r"\.norm(\d?)\.norm\.", r".norm\1."),
    (r"\.norm_out\.norm\.", ".norm_out."),
    (r"\.downsample\.conv1\.", ".downsample.space."),
    (r"\.downsample\.conv2\.", ".downsample.time."),
    (r"\.upsample\.conv1\.", ".upsample.time."),
    (r"\.upsample\.conv2\.", ".upsample.space."),
    (r"\.(down|up)sample\.conv3\.", r".\1sample.mix."),
    (r"\.(conv1|conv2|conv_in|conv_out)\.0\.", r".\1.space."),
    (r"\.(conv1|conv2|conv_in|conv_out)\.1\.", r".\1.time."),
]

LEVELS = [8, 8, 8, 5, 5, 5]
"""Of its finite scalar quantizer, where the settings state none."""


def cosmos(source: Source) -> Converted:
    """Cosmos DV: factorised causal networks behind Haar patches, and finite scalar quantization."""
    need(source.weights, "encoder.conv_in.0.conv3d.weight", source)
    weights = renamed(source.weights, RULES)
    seen = {name.replace(".space.", "."): tensor for name, tensor in weights.items()}
    model = networks(seen, source)
    pixels = need(weights, "encoder.conv_in.space.weight", source).shape[1]
    side = round((pixels / 3) ** (1 / 3))
    if 3 * side**3 != pixels or side not in (1, 2, 4):
        raise UserError(f"{source.where} has {pixels} channels of patches, not 3 times 1, 8 or 64: not supported")
    times, spaces = _strides(source, side, len(model["channel_multipliers"]) - 1)
    weights = without(weights, *_unused(weights, times, spaces))
    weights["encoder.conv_in.space.weight"] = in_order(weights["encoder.conv_in.space.weight"], 1, side)
    for name in ("weight", "bias"):
        weights[f"decoder.conv_out.time.{name}"] = in_order(weights[f"decoder.conv_out.time.{name}"], 0, side)
    levels = range(len(model["channel_multipliers"]))
    at = [level for level in levels if f"encoder.down.{level}.attn.0.0.q.weight" in weights]
    fsq = {"kind": "fsq", "levels": list(find(source.settings, "levels") or LEVELS)}
    model |= {"in_channels": 3, "spatial_dims": 3, "attention_levels": at, "attention_middle": True, "quantizer": fsq}
    video = {"causal": True, "layers": "cosmos", "haar": side, "time_strides": times, "space_strides": spaces}
    return Converted(model | {"video": video}, weights)


def _strides(source: Source, side: int, changes: int) -> tuple[list[int], list[int]]:
    """Of time and of space, for each change of resolution of the encoder."""
    given = find(source.changes, "video", "time_strides"), find(source.changes, "video", "space_strides")
    if all(isinstance(one, list) and len(one) == changes for one in given):
        return given
    found = []
    for name in ("temporal_compression", "spatial_compression"):
        value = find(source.settings, name)
        halved = int(math.log2(value / side)) if isinstance(value, int) and value >= side else -1
        if not 0 <= halved <= changes:
            raise UserError(
                f"{source.where} doesn't state {name}, from {side} to {side << changes}: give a --config with "
                "temporal_compression and spatial_compression (of DV8x16x16: 8 and 16)"
            )
        found.append([2] * halved + [1] * (changes - halved))
    return found[0], found[1]


def _unused(weights: Weights, times: list[int], spaces: list[int]) -> list[str]:
    """Names of convolutions that are there but not used, as nothing is resampled."""
    strides = list(zip(times, spaces, strict=True))
    used = {f"encoder.down.{number}.downsample.": pair for number, pair in enumerate(strides)}
    used |= {f"decoder.up.{number + 1}.upsample.": pair for number, pair in enumerate(decoder_strides(strides))}
    names = []
    for stem, (time, space) in used.items():
        dropped = [part for part, stride in (("time", time), ("space", space)) if stride == 1]
        dropped += ["mix"] if len(dropped) == 2 else []
        names += [f"{stem}{part}.{kind}" for part in dropped for kind in ("weight", "bias")]
    return [name for name in names if name in weights]


def in_order(tensor: Tensor, axis: int, side: int) -> Tensor:
    """Patches' channels along an axis in our order: theirs are (second bands of T, H, W), (first bands), colours."""
    bits = side.bit_length() - 1
    if not bits:
        return tensor
    parts = tensor.unflatten(axis, (*[2] * 3 * bits, -1))
    moved = [axis + 3 * bit + place for place in range(3) for bit in range(bits)]
    order = [*range(axis), *moved, *range(axis + 3 * bits, parts.ndim)]
    return parts.permute(order).flatten(axis, axis + 3 * bits)
