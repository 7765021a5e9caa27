"""Release a tokenizer: `python -m stage1_tokenizer.release RUN OUT --licence apache-2.0 [--push ORG/NAME]`.

OUT/model.safetensors, config.json, preprocessor_config.json   for `Tokenizer.from_pretrained` (averaged weights)
OUT/discriminator.safetensors         with --discriminator, for fine-tuning
OUT/modeling_vqloom.py and others     for `AutoModel.from_pretrained(OUT, trust_remote_code=True)`
OUT/metrics.json                      figures, and how they were measured
OUT/README.md, reconstructions.png    the model card
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import parse, run
from launch.files.downloads import check_repository
from stage1_tokenizer.publishing.licences import check_licence


@dataclass(frozen=True)
class ReleaseConfig:
    """Turn a run's newest checkpoint into a folder that others can use."""

    run: str
    """Folder of the training run; the first argument."""
    out: str
    """Folder to create; it must not exist yet. The second argument."""
    licence: str | None = None
    """Licence of the weights, by its Hub identifier (apache-2.0, mit, cc-by-nc-4.0, …). Required."""
    metrics: str | None = None
    """JSON file of stage1_tokenizer.evaluate on this run; null: the run's own last evaluation."""
    name: str | None = None
    """The tokenizer's name in its card; null: the repository's, or the folder's."""
    limits: str | None = None
    """Text for the card: what the tokenizer should not be used for, or is bad at."""
    discriminator: bool = False
    """Add the discriminator, so that others can fine-tune."""
    push: str | None = None
    """Repository on the Hub, ORG/NAME, to push the folder to; it is created if it doesn't exist."""
    private: bool = False
    """Create that repository as a private one."""
    revision: str | None = None
    """Branch to push to; null: main."""
    endpoint: str | None = None
    """Address of the Hub; null: HF_ENDPOINT, or huggingface.co."""

    def __post_init__(self) -> None:
        check_licence(self.licence)
        check_repository("push", self.push)


def release(config: ReleaseConfig) -> Path:
    """Write the folder and, if requested, push it; the folder. Raises UserError as the functions it calls."""
    from stage1_tokenizer.publishing.card import Publication
    from stage1_tokenizer.publishing.hub import push
    from stage1_tokenizer.publishing.release import release_tokenizer

    out = Path(config.out)
    name = config.name or (config.push or out.resolve().name).rpartition("/")[2]
    publication = Publication(name, str(config.licence), config.push or name, config.limits)
    release_tokenizer(config.run, out, publication, metrics=config.metrics, discriminator=config.discriminator)
    if config.push is not None:
        options = {"revision": config.revision, "endpoint": config.endpoint}
        print(push(out, config.push, private=config.private, **options))
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prog = "python -m stage1_tokenizer.release RUN OUT"
    print(release(parse(ReleaseConfig, argv, prog=prog, positional=("run", "out"))))


if __name__ == "__main__":
    run(main)
