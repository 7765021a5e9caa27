"""Release a prior: `python -m stage2_prior.release --prior RUN --out DIR --licence apache-2.0`.

DIR/model.safetensors, config.json, generation_config.json   for plain `transformers` (averaged weights)
DIR/prior.json      meaning of the tokens, and the fingerprint of the tokenizer that made the codes
DIR/metrics.json    figures
DIR/README.md       the model card
"""

from dataclasses import dataclass
from pathlib import Path

from launch.command.cli import parse, run
from stage1_tokenizer.publishing.licences import check_licence


@dataclass(frozen=True)
class ReleaseConfig:
    """Turn a finished run into a folder that others can use."""

    prior: str
    """Folder of the training run."""
    out: str
    """Folder to create; it must not exist yet."""
    tokenizer: str | None = None
    """The released tokenizer, to check that the prior belongs to it; null: not checked."""
    metrics: str | None = None
    """JSON file of stage2_prior.evaluate on this run; null: the run's own last evaluation."""
    name: str | None = None
    """The prior's name in its card; null: the folder's."""
    licence: str | None = None
    """Licence of the weights, by its Hub identifier (apache-2.0, mit, cc-by-nc-4.0, …). Required."""

    def __post_init__(self) -> None:
        check_licence(self.licence)


def release(config: ReleaseConfig) -> Path:
    """Write the folder; the folder. Raises UserError as `release_prior`."""
    from stage1_tokenizer.publishing.card import Publication
    from stage2_prior.publishing.release import release_prior

    out = Path(config.out)
    name = config.name or out.resolve().name
    publication = Publication(name, str(config.licence), name)
    release_prior(config.prior, out, publication, tokenizer=config.tokenizer, metrics=config.metrics)
    return out


def main() -> None:
    """The command."""
    print(release(parse(ReleaseConfig, prog="python -m stage2_prior.release")))


if __name__ == "__main__":
    run(main)
