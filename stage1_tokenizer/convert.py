"""Convert a published tokenizer, or export one: `python -m stage1_tokenizer.convert IN OUT --from LAYOUT`.

IN    a checkpoint (.ckpt, .pt, .pth, .bin, .safetensors) or a folder with one; without --from, one of our released or
      run folders
OUT   a released tokenizer: config.json, model.safetensors, preprocessor_config.json, README.md, and
      discriminator.safetensors if IN has one that fits; with --to diffusers the folder of a diffusers.VQModel, with
      --to dac that of a transformers.DacModel

Nothing in IN is executed: pickles are read as weights only. Settings that can't be derived from the weights come from
the peer's own file (--config) or from options such as `--model.quantizer.scales [1,2,3,4,6,9,13,18,24,32]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launch.command.cli import parse, run
from stage1_tokenizer.foreign import LAYOUTS
from stage1_tokenizer.publishing.licences import check_licence


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert, and how."""

    source: Path
    """Checkpoint, or a folder with one; the first argument."""
    out: Path
    """Folder to create; it must not exist yet. The second argument."""
    from_: str | None = None
    """The checkpoint's layout, one of those listed above; null: IN is a folder of ours."""
    to: Literal["vqloom", "diffusers", "dac"] = "vqloom"
    """Format of OUT."""
    config: Path | None = None
    """The peer's configuration, YAML or JSON."""
    weights: Literal["averaged", "last"] = "averaged"
    """Which weights of a checkpoint that has an EMA."""
    size: int | None = None
    """Side of the training pictures; null: as in the peer's configuration, or else 256."""
    sample_rate: int | None = None
    """Samples a second of the training sounds; null: as in the peer's configuration."""
    licence: str | None = None
    """Licence of the weights by its Hub identifier, for the card."""
    origin: str | None = None
    """Where the checkpoint was published, for the card."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of the model that the checkpoint doesn't state: --model.KEY VALUE."""

    def __post_init__(self) -> None:
        names = ", ".join(LAYOUTS)
        if self.from_ is None and self.to == "vqloom":
            raise ValueError(f"--from is missing: give the checkpoint's layout, one of {names}")
        given = [
            name for name in ("config", "size", "sample_rate", "licence", "origin", "model") if getattr(self, name)
        ]
        if self.from_ is None and given:
            raise ValueError(f"{given[0]} is for a foreign checkpoint: give its layout by --from, or leave it out")
        if self.from_ is not None and self.from_ not in LAYOUTS:
            raise ValueError(f"from={self.from_} is not known: choose among {names}")
        if self.licence is not None:
            check_licence(self.licence)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prog = "python -m stage1_tokenizer.convert IN OUT"
    about = f"{__doc__}\nLayouts: {', '.join(LAYOUTS)}."
    config = parse(ConvertConfig, argv, prog=prog, description=about, positional=("source", "out"))
    from stage1_tokenizer.publishing.convert import convert_published, export

    if config.from_ is None:
        export(str(config.source), config.out, config.to)
    else:
        settings = {key: value for key, value in vars(config).items() if key != "from_"}
        convert_published(layout=config.from_, **settings)
    print(config.out)


if __name__ == "__main__":
    run(main)
