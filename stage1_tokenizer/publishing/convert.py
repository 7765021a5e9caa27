"""A published checkpoint as a released folder, and a tokenizer of ours as a model of diffusers or transformers."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from data.media import Transform
from data.pictures.config import TransformConfig
from data.sounds.config import SoundConfig
from data.videos.config import VideoConfig
from launch.command.cli import UserError
from launch.files.atomic import new_folder
from stage1_tokenizer.config.model import ModelConfig
from stage1_tokenizer.foreign import discriminator as carried
from stage1_tokenizer.foreign.base import Converted
from stage1_tokenizer.foreign.checkpoint import convert_checkpoint, read_checkpoint
from stage1_tokenizer.foreign.dac import to_dac
from stage1_tokenizer.foreign.diffusers_vq import to_diffusers
from stage1_tokenizer.publishing.card import Origin, write_converted_card
from stage1_tokenizer.publishing.folder import CARD
from stage1_tokenizer.publishing.standalone import try_out, write_model_files
from stage1_tokenizer.tokenizer.folder import model_config
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_tokenizer

SIZE = 256
"""Side of the pictures if neither options nor configuration set it."""

FRAMES = 16
"""Frames of a video's clips, and one more where the first has codes of its own."""


def convert_published(
    *,
    source: Path,
    out: Path,
    layout: str,
    to: str,
    config: Path | None,
    weights: str,
    size: int | None,
    sample_rate: int | None,
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
        tokenizer = build(converted, str(checkpoint.path), size, sample_rate)
        if to in EXPORTS:
            EXPORTS[to](part, tokenizer)
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


def export(source: str, out: Path, to: str) -> None:
    """Write one of our released or run folders as the folder of a diffusers.VQModel or a transformers.DacModel."""
    with new_folder(out) as part:
        EXPORTS[to](part, open_tokenizer(source))


def build(converted: Converted, where: str, size: int | None = None, sample_rate: int | None = None) -> Tokenizer:
    """A tokenizer with the converted weights, in evaluation mode; UserError with the first name that doesn't fit."""
    config = model_config(converted.model, Path(where))
    tokenizer = Tokenizer(config, _transform(config, converted, where, size, sample_rate))
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


def _transform(
    config: ModelConfig, converted: Converted, where: str, size: int | None, sample_rate: int | None
) -> Transform:
    """How samples are prepared: pictures and frames of the peer's size, or sounds of about a second at its rate."""
    if config.spatial_dims == 1:
        hop, rate = config.stride[0], sample_rate or converted.rate
        if rate is None:
            raise UserError(f"{where} doesn't state the rate of its sounds: give --sample_rate, or --config")
        return SoundConfig(sample_rate=rate, length=max(rate // hop, 1) * hop, channels=config.in_channels)
    kind, scales = config.quantizer.kind, config.quantizer.scales
    size = size or converted.size or (scales[-1] * config.stride[0] if kind == "multiscale" else SIZE)
    if config.spatial_dims == 3:
        frames = config.first_alone + FRAMES // config.stride[0] * config.stride[0]
        return VideoConfig(size=size, frames=frames, channels=3 if config.in_channels == 3 else 1)
    return TransformConfig(size=size, channels=3 if config.in_channels == 3 else 1)


def write_diffusers(folder: Path, tokenizer: Tokenizer) -> None:
    """config.json and diffusion_pytorch_model.safetensors of a diffusers.VQModel."""
    size = tokenizer.transform.sizes[0] if tokenizer.transform else None
    settings, weights = to_diffusers(tokenizer.config, tokenizer.weights(), size)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def write_dac(folder: Path, tokenizer: Tokenizer) -> None:
    """config.json, preprocessor_config.json and model.safetensors of a transformers.DacModel."""
    transform = tokenizer.transform
    rate = transform.sample_rate if isinstance(transform, SoundConfig) else 16000
    settings, weights = to_dac(tokenizer.config, tokenizer.weights(), rate)
    prepared = {"feature_extractor_type": "DacFeatureExtractor", "feature_size": 1, "sampling_rate": rate}
    prepared |= {"hop_length": tokenizer.config.stride[0], "padding_side": "right", "padding_value": 0.0}
    for name, values in (("config.json", settings), ("preprocessor_config.json", prepared)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


EXPORTS: dict[str, Callable[[Path, Tokenizer], None]] = {"diffusers": write_diffusers, "dac": write_dac}
"""Formats of other libraries by their name (--to)."""
