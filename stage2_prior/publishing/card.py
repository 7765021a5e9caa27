"""The values of a released prior's model card."""

from pathlib import Path
from typing import Any

from launch.files.templates import render
from stage1_tokenizer.publishing.card import Publication, about_training, metadata
from stage1_tokenizer.publishing.folder import is_figure
from stage2_prior.codes.source import CodeSource
from stage2_prior.priors.base import Prior
from stage2_prior.priors.unified import UnifiedPrior

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
    name, unified = publication.name, isinstance(prior, UnifiedPrior)
    kinds = [block.source.kind for block in prior.vocabulary.blocks] if isinstance(prior, UnifiedPrior) else []
    tags = ["text-generation", *dict.fromkeys(map(TAGS.__getitem__, kinds))] if unified else [TAGS[prior.source.kind]]
    text = render(
        "card_unified.md" if unified else "card_prior.md",
        metadata=metadata(publication.licence, name, library_name="transformers", tags=[*tags, "vqloom"]),
        name=name,
        millions=sum(weight.numel() for module in prior.exported.values() for weight in module.parameters()) / 1e6,
        figures=[(key, value) for key, value in metrics.items() if is_figure(value)],
        **(about_vocabulary(prior) if isinstance(prior, UnifiedPrior) else about_codes(prior, name)),
        **about_training(run, config, origin, config["steps"]),
    )
    path.write_text(text)


def about_codes(prior: Prior, name: str) -> dict[str, Any]:
    """What the card of a prior over one tokenizer's codes says of it."""
    return {
        "kind": prior.kind,
        "codes": codes_of(prior.source),
        "condition": str(prior.condition),
        "tokenizer": prior.source.tokenizer,
        "text": prior.condition.texts,
        "usage": prior.usage(name),
        "last": prior.vocabulary.codes - 1,
        "factors": prior.vocabulary.factors,
        "null": prior.vocabulary.null,
    }


def about_vocabulary(prior: UnifiedPrior) -> dict[str, Any]:
    """What the card of a unified prior says of it."""
    vocabulary, blocks = prior.vocabulary, []
    for block in vocabulary.blocks:
        opening, closing = (vocabulary.text.id_to_token(token) for token in (block.opening, block.closing))
        blocks.append(
            {
                "name": block.name,
                "kind": block.source.kind,
                "codes": codes_of(block.source),
                "shape": ", ".join(map(str, block.source.shape)),
                "length": block.length,
                "books": block.source.codebooks,
                "first": block.first,
                "last": block.first + block.size - 1,
                "opening": opening,
                "closing": closing,
                "fingerprint": block.source.tokenizer,
            }
        )
    return {
        "stock": type(prior.lm).__name__,
        "init_text": prior.init_text,
        "size": vocabulary.size,
        "texts": vocabulary.texts,
        "blocks": blocks,
        "prompt": f"a text{blocks[0]['opening']}" if blocks else "The beginning of a text",
    }


def codes_of(source: CodeSource) -> str:
    """The codes of a picture, in words."""
    shape = "×".join(map(str, source.shape))
    scales = f" on scales {', '.join(map(str, source.scales))}" if source.scales else ""
    each = " of each codebook" if source.codebooks > 1 else ""
    return f"{shape} codes out of {source.codebook_size}{each}{scales}"
