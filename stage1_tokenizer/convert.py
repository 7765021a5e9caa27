"""Bring a published tokenizer, or take one elsewhere: `python -m stage1_tokenizer.convert IN OUT --from LAYOUT`.

IN    a checkpoint (.ckpt, .pt, .pth, .bin, .safetensors) or a folder with one; without --from, our own released or run
      folder
OUT   a released tokenizer: config.json, model.safetensors, preprocessor_config.json, README.md, and
      discriminator.safetensors where IN has one that fits; with --to diffusers, the folder of a diffusers.VQModel

Nothing in IN is executed: pickles are read as weights only. Settings that the weights don't tell come from the peer's
own file (--config) or from options such as `--model.quantizer.scales [1,2,3,4,6,9,13,18,24,32]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from launch.command import cli
from launch.command.cli import UserError
from stage1_tokenizer.publishing.licences import check_licence

if TYPE_CHECKING:
    from torch import Tensor

    from stage1_tokenizer.foreign import Converted
    from stage1_tokenizer.publishing.converted_card import Origin
    from stage1_tokenizer.tokenizer.model import Tokenizer

Layout = Literal["taming", "llamagen", "ibq", "open_magvit2", "simvq", "maskgit", "var", "diffusers"]
"""The layouts that can be read; the keys of stage1_tokenizer.foreign.LAYOUTS, known without importing torch."""

NAMES: tuple[str, ...] = get_args(Layout)

SIZE = 256
"""Side of the pictures where neither option nor configuration tells."""


@dataclass(frozen=True)
class ConvertConfig:
    """What is converted, and how."""

    source: Path
    """Checkpoint, or folder with one; the first word."""
    out: Path
    """Folder to be made; one that exists is left alone; the second word."""
    from_: Layout | None = None
    """Whose checkpoint it is; null: our own folder."""
    to: Literal["vqloom", "diffusers"] = "vqloom"
    """What OUT becomes."""
    config: Path | None = None
    """The peer's configuration, YAML or JSON."""
    weights: Literal["averaged", "last"] = "averaged"
    """Which of a checkpoint with an EMA."""
    size: int | None = None
    """Side of the pictures that the tokenizer was trained on; null: as the configuration tells, else 256."""
    licence: str | None = None
    """Licence of the weights by its Hub identifier, for the card."""
    origin: str | None = None
    """Where the checkpoint was published, for the card."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of the model that the checkpoint doesn't tell: --model.KEY VALUE."""

    def __post_init__(self) -> None:
        if self.licence is not None:
            check_licence(self.licence)


def convert(config: ConvertConfig) -> Path:
    """Write the folder, whole or not at all; the folder.

    Raises UserError where IN isn't what it is said to be, can't be read safely, or has what can't be built.
    """
    from stage1_tokenizer.foreign import discriminator as judge
    from stage1_tokenizer.publishing.converted_card import write_card
    from stage1_tokenizer.publishing.folder import new_folder
    from stage1_tokenizer.publishing.standalone import write_model_files

    with new_folder(config.out) as part:
        tokenizer, found, origin = _opened(config)
        if config.to == "diffusers":
            _write_diffusers(part, tokenizer)
            return config.out
        part.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(part)
        write_model_files(part)
        carried = judge.discriminator(found)
        if isinstance(carried, str):
            origin = replace(origin, discriminator=f"none: {carried}")
        else:
            judge.save(part, *carried)
        write_card(part / "README.md", config.out.resolve().name, tokenizer, origin)
    print(f"discriminator: {origin.discriminator}", file=sys.stderr)
    return config.out


def _opened(config: ConvertConfig) -> tuple[Tokenizer, dict[str, Tensor], Origin]:
    """The tokenizer, the peer's discriminator by its own names, and what the card tells of their origin."""
    from stage1_tokenizer.foreign import convert_checkpoint
    from stage1_tokenizer.foreign.reading import read_checkpoint
    from stage1_tokenizer.publishing.converted_card import Origin
    from stage1_tokenizer.tokenizer.opening import open_tokenizer

    if config.from_ is None:
        if config.to != "diffusers":
            raise UserError("--from is missing: say whose checkpoint it is, one of " + ", ".join(NAMES))
        own = Origin("vqloom", config.source.name, "", None, None, None)
        return open_tokenizer(str(config.source)), {}, own
    checkpoint = read_checkpoint(config.source, config.config)
    averaged = config.weights == "averaged"
    made, source = convert_checkpoint(checkpoint, config.from_, averaged=averaged, changes=config.model)
    tokenizer = build(made, str(checkpoint.path), config.size)
    settings = checkpoint.settings_path.name if checkpoint.settings_path else None
    origin = Origin(
        config.from_, checkpoint.path.name, checkpoint.sha256, settings, config.origin, config.licence, made.notes
    )
    return tokenizer, source.discriminator, origin


def build(made: Converted, where: str, size: int | None = None) -> Tokenizer:
    """A tokenizer with the converted weights, in evaluation mode; UserError where they aren't its own, name by name."""
    from data.pictures.config import TransformConfig
    from stage1_tokenizer.foreign.discriminator import differing
    from stage1_tokenizer.tokenizer.folder import model_config
    from stage1_tokenizer.tokenizer.model import Tokenizer

    config = model_config(made.model, Path(where))
    kind, scales = config.quantizer.kind, config.quantizer.scales
    size = size or made.size or (scales[-1] * config.stride if kind == "multiscale" else SIZE)
    channels = 3 if config.in_channels == 3 else 1
    tokenizer = Tokenizer(config, TransformConfig(size=size, channels=channels))
    expected = tokenizer.weights()
    if odd := differing(expected, made.weights):
        what = "lacks" if odd in expected and odd not in made.weights else "has an unknown"
        what = "differs at" if ", " in odd else what
        missing, more = len(expected.keys() - made.weights.keys()), len(made.weights.keys() - expected.keys())
        raise UserError(
            f"{where} {what} {odd} (our names; {missing} missing, {more} too many): is --from right, and does --config "
            f"belong to it?"
        )
    tokenizer.load_state_dict(made.weights)
    return tokenizer.eval()


def _write_diffusers(folder: Path, tokenizer: Tokenizer) -> None:
    """config.json and diffusion_pytorch_model.safetensors of a diffusers.VQModel."""
    from safetensors.torch import save_file

    from stage1_tokenizer.foreign.diffusers_vq import to_diffusers

    size = tokenizer.transform.size if tokenizer.transform else None
    settings, weights = to_diffusers(tokenizer.config, tokenizer.weights(), size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def parse(argv: Sequence[str] | None = None) -> ConvertConfig:
    """The command's options; UserError for those that don't fit."""
    prog = "python -m stage1_tokenizer.convert IN OUT"
    return cli.parse(ConvertConfig, argv, prog=prog, description=__doc__ or "", positional=("source", "out"))


def main() -> None:
    """The command."""
    print(convert(parse()))


if __name__ == "__main__":
    cli.run(main)
