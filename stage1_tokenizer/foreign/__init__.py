"""Published tokenizers' checkpoints, by the project that publishes them: their names and shapes in ours.

`convert_checkpoint` does it all but writing: it picks the weights out of a trainer's checkpoint, renames them by the
layout's module, and holds the result against a Tokenizer of the settings that were found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer.foreign import taming as _taming
from stage1_tokenizer.foreign.base import Converted, Layout, Source
from stage1_tokenizer.foreign.diffusers_vq import diffusers
from stage1_tokenizer.foreign.llamagen import llamagen
from stage1_tokenizer.foreign.magvit import maskgit, open_magvit2, simvq
from stage1_tokenizer.foreign.reading import Checkpoint, tensors_in

LAYOUTS: dict[str, Layout] = {
    "taming": _taming.taming,
    "llamagen": llamagen,
    "ibq": _taming.ibq,
    "open_magvit2": open_magvit2,
    "simvq": simvq,
    "maskgit": maskgit,
    "var": _taming.var,
    "diffusers": diffusers,
}
"""Every layout that can be read, by its name."""

PREFIXES = ("module.", "_orig_mod.", "first_stage_model.", "vqgan.", "vae.")
"""What wrappers and larger models put before all of a tokenizer's names."""


def source_of(checkpoint: Checkpoint, averaged: bool) -> Source:
    """The tokenizer's and the discriminator's tensors in a checkpoint of any trainer.

    Raises UserError where there are none.
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
        raise UserError(f"{checkpoint.path} holds no weights of a model (its keys: {keys}): name another checkpoint")
    state = _unwrapped(state)
    judge = {name.removeprefix("loss.discriminator."): t for name, t in state.items() if name.startswith("loss.disc")}
    beside = content.get("discriminator")
    if isinstance(beside, Mapping):
        judge = _unwrapped(tensors_in(beside))
    if averaged:
        state |= _averaged(state)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    dropped = ("loss.", "model_ema.", "inception_model.", "lpips_")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(dropped)}
    return Source(str(checkpoint.path), weights, judge, checkpoint.settings)


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
    """A checkpoint in our names and settings; `changes` are settings of the model that it doesn't tell.

    Raises UserError where it isn't of that layout, or has parts that can't be built.
    """
    source = source_of(checkpoint, averaged)
    changes = changes or {}
    if layout == "var" and "scales" in changes.get("quantizer", {}):
        source.settings["scales"] = changes["quantizer"]["scales"]
    made = LAYOUTS[layout](source)
    quantizer = {**made.model["quantizer"], **changes.get("quantizer", {})}
    model = {**made.model, **changes, "quantizer": quantizer}
    weights = {name: tensor.contiguous() for name, tensor in made.weights.items()}
    return Converted(model, weights, made.size, made.notes), source
