"""The model card of a released prior."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage2_prior.codes.source import CodeSource
    from stage2_prior.priors.base import Prior
    from stage2_prior.release import ReleaseConfig

TEMPLATE = """---
license: {licence}
library_name: transformers
tags:
- image-generation
- vqloom
---

# {name}

A {kind} prior made with vqloom: {parameters:.2f} M parameters over {codes}, {condition}.

Its codes are those of the tokenizer with the fingerprint `{tokenizer}`; another one's decoder gives noise.

## Use

With vqloom: `python -m stage2_prior.sample --prior {name} --tokenizer TOKENIZER --out DIR --count 10 \
--guidance 3{prompt}`.

{stock}

Token ids: codes 0 to {last}, then the classes in the order of `prior.json`, then the token of no class ({null}).

## Training

{data}

{steps} steps at a global batch of {batch}, {precision}; averaged weights (decay {ema}). Commit {commit}; {hardware}; \
{date}.

## Figures

{figures}
"""


def write_card(
    path: Path,
    config: ReleaseConfig,
    prior: Prior,
    settings: dict[str, Any],
    origin: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Write the model card of `prior`, from its run's settings and origin and its figures."""
    from stage1_tokenizer.publishing.card import said, trained_on

    vocabulary, source = prior.vocabulary, prior.source
    name = config.name or Path(config.out).resolve().name
    figures = [f"| {key} | {value:.4g} |" for key, value in metrics.items() if isinstance(value, (int, float))]
    path.write_text(
        TEMPLATE.format(
            licence=config.licence,
            name=name,
            kind=prior.kind,
            parameters=sum(weight.numel() for module in prior.exported.values() for weight in module.parameters())
            / 1e6,
            codes=codes_of(source),
            condition=str(prior.condition),
            tokenizer=source.tokenizer,
            stock=prior.usage(name),
            prompt=' --prompt "…"' if prior.condition.prefix else "",
            last=vocabulary.codes - 1,
            null=vocabulary.null,
            data=trained_on(settings["data"]["index"]),
            steps=settings["steps"],
            batch=settings["data"]["batch_size"],
            precision=settings["run"]["precision"],
            ema=settings["optimizer"]["ema_decay"],
            commit=said(origin, "commit"),
            hardware=said(origin, "hardware"),
            date=said(origin, "date")[:10],
            figures="\n".join(["| figure | value |", "|---|---|", *figures]) if figures else "None were measured.",
        )
    )


def codes_of(source: CodeSource) -> str:
    """What the codes of a picture are, in words."""
    shape = "×".join(map(str, source.shape))
    scales = f" on scales {', '.join(map(str, source.scales))}" if source.scales else ""
    each = " of each codebook" if source.codebooks > 1 else ""
    return f"{shape} codes out of {source.codebook_size}{each}{scales}"
