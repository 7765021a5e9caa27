"""The values of a released prior's model card."""

from pathlib import Path
from typing import Any

from launch.files.templates import render
from stage1_tokenizer.publishing.card import Publication, about_training, metadata
from stage1_tokenizer.publishing.folder import is_figure
from stage2_prior.codes.source import CodeSource
from stage2_prior.priors.base import Prior

TAGS = {"pictures": "image-generation", "sounds": "audio-generation", "videos": "video-generation"}
"""What the Hub calls drawing samples of each kind."""


def write_card(
    path: Path,
    publication: Publication,
    prior: Prior,
    run: Path,
    config: dict[str, Any],
    origin: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Write the card of `prior` from its run's folder, configuration and origin and its figures."""
    name, tags = publication.name, [TAGS[prior.source.kind], "vqloom"]
    text = render(
        "card_prior.md",
        metadata=metadata(publication.licence, name, library_name="transformers", tags=tags),
        name=name,
        kind=prior.kind,
        millions=sum(weight.numel() for module in prior.exported.values() for weight in module.parameters()) / 1e6,
        codes=codes_of(prior.source),
        condition=str(prior.condition),
        tokenizer=prior.source.tokenizer,
        text=bool(prior.condition.prefix),
        usage=prior.usage(name),
        last=prior.vocabulary.codes - 1,
        null=prior.vocabulary.null,
        figures=[(key, value) for key, value in metrics.items() if is_figure(value)],
        **about_training(run, config, origin, config["steps"]),
    )
    path.write_text(text)


def codes_of(source: CodeSource) -> str:
    """The codes of a picture, in words."""
    shape = "×".join(map(str, source.shape))
    scales = f" on scales {', '.join(map(str, source.scales))}" if source.scales else ""
    each = " of each codebook" if source.codebooks > 1 else ""
    return f"{shape} codes out of {source.codebook_size}{each}{scales}"
