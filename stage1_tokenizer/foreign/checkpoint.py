"""From a trainer's checkpoint to a tokenizer in our names: finds the weights in it and converts them by its layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.foreign.base import Converted, Source, WrongLayoutError
from stage1_tokenizer.foreign.reading import Checkpoint, tensors_in

PREFIXES = ("module.", "_orig_mod.", "first_stage_model.", "vqgan.", "vae.")
"""Prefixes that wrappers and larger models put before a tokenizer's names."""


def source_of(checkpoint: Checkpoint, layout: str, averaged: bool, changes: Mapping[str, Any]) -> Source:
    """The tokenizer's and the discriminator's tensors in a checkpoint of any trainer.

    Raises UserError if there are none.
    """
    content = checkpoint.content
    for key in ("ema", "model", "state_dict", "module", "generator"):
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
    state = _unwrapped(state)
    theirs = {name: tensor for name, tensor in state.items() if name.startswith("loss.disc")}
    discriminator = {name.removeprefix("loss.discriminator."): tensor for name, tensor in theirs.items()}
    separate = content.get("discriminator")
    if isinstance(separate, Mapping):
        discriminator = _unwrapped(tensors_in(separate))
    if averaged:
        state |= _averaged(state)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    dropped = ("loss.", "model_ema.", "inception_model.", "lpips_")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(dropped)}
    return Source(layout, str(checkpoint.path), weights, discriminator, checkpoint.settings, changes)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix of a wrapper, or only the tokenizer out of a larger model."""
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
    quantizer = {**converted.model["quantizer"], **changes.get("quantizer", {})}
    model = {**converted.model, **changes, "quantizer": quantizer}
    weights = {name: tensor.contiguous() for name, tensor in converted.weights.items()}
    return Converted(model, weights, converted.size, converted.notes), source
