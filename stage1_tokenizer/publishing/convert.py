"""A published checkpoint as a released folder, and a tokenizer of ours as a diffusers.VQModel."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from data.pictures.config import TransformConfig
from launch.command.cli import UserError
from launch.files.atomic import new_folder
from stage1_tokenizer.foreign import discriminator as carried
from stage1_tokenizer.foreign.base import Converted
from stage1_tokenizer.foreign.checkpoint import convert_checkpoint, read_checkpoint
from stage1_tokenizer.foreign.diffusers_vq import to_diffusers
from stage1_tokenizer.publishing.card import Origin, write_converted_card
from stage1_tokenizer.publishing.folder import CARD
from stage1_tokenizer.publishing.standalone import try_out, write_model_files
from stage1_tokenizer.tokenizer.folder import model_config
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_tokenizer

SIZE = 256
"""Side of the pictures if neither options nor configuration set it."""


def convert_published(
    *,
    source: Path,
    out: Path,
    layout: str,
    to: str,
    config: Path | None,
    weights: str,
    size: int | None,
    licence: str | None,
    origin: str | None,
    model: Mapping[str, Any],
) -> None:
    """Write the folder `out`, whole or not at all; the arguments are the settings of stage1_tokenizer.convert.

    Raises UserError if the checkpoint has another layout, can't be read safely, or has parts that aren't supported, and
    if plain transformers doesn't give the same codes.
    """
    with new_folder(out) as part:
        checkpoint = read_checkpoint(source, config)
        converted, peer = convert_checkpoint(checkpoint, layout, averaged=weights == "averaged", changes=model)
        tokenizer = build(converted, str(checkpoint.path), size)
        if to == "diffusers":
            write_diffusers(part, tokenizer)
            return
        tokenizer.save_pretrained(part)
        write_model_files(part)
        discriminator = carried.discriminator(peer.discriminator)
        if isinstance(discriminator, str):
            place = f"none: {discriminator}"
        else:
            place = f"in `{carried.FILE}`"
            carried.save(part, *discriminator)
        name, file = checkpoint.path.name, checkpoint.settings_path.name if checkpoint.settings_path else None
        card = Origin(layout, name, checkpoint.sha256, file, origin, licence, converted.notes, place)
        write_converted_card(part / CARD, out.resolve().name, tokenizer, card)
        try_out(part, tokenizer)
    print(f"discriminator: {place}", file=sys.stderr)


def export_diffusers(source: str, out: Path) -> None:
    """Write one of our released or run folders as the folder of a diffusers.VQModel."""
    with new_folder(out) as part:
        write_diffusers(part, open_tokenizer(source))


def build(converted: Converted, where: str, size: int | None = None) -> Tokenizer:
    """A tokenizer with the converted weights, in evaluation mode; UserError with the first name that doesn't fit."""
    config = model_config(converted.model, Path(where))
    kind, scales = config.quantizer.kind, config.quantizer.scales
    size = size or converted.size or (scales[-1] * config.stride[0] if kind == "multiscale" else SIZE)
    channels = 3 if config.in_channels == 3 else 1
    tokenizer = Tokenizer(config, TransformConfig(size=size, channels=channels))
    expected = tokenizer.weights()
    if odd := carried.differing(expected, converted.weights):
        what = "lacks" if odd in expected and odd not in converted.weights else "has an unknown"
        what = "differs at" if ", " in odd else what
        missing, more = len(expected.keys() - converted.weights.keys()), len(converted.weights.keys() - expected.keys())
        raise UserError(
            f"{where} {what} {odd} (our names; {missing} missing, {more} too many): is --from right, and does --config "
            f"belong to it?"
        )
    tokenizer.load_state_dict(converted.weights)
    return tokenizer.eval()


def write_diffusers(folder: Path, tokenizer: Tokenizer) -> None:
    """config.json and diffusion_pytorch_model.safetensors of a diffusers.VQModel."""
    size = tokenizer.transform.size if tokenizer.transform else None
    settings, weights = to_diffusers(tokenizer.config, tokenizer.weights(), size)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
