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

A {kind} prior made with vqloom: {parameters:.2f} M parameters over {codes}, {classes}.

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

CAUSAL = """
With plain transformers, one grid of the most likely codes for each class token (no guidance):

```python
import torch
from transformers import AutoModelForCausalLM

prior = AutoModelForCausalLM.from_pretrained("{name}")
code_BN = prior.generate(torch.tensor([[{first}]]), do_sample=False)[:, 1:]  # {grid} codes, row by row
```

It is a stock Llama: `vllm serve {name} --skip-tokenizer-init` takes it too, asked with token ids.
"""

OWN = """
It needs vqloom to be sampled: {why}. The transformers themselves are stock: {loads} loads {what}.
"""

MASKED = """
It is a stock ModernBERT: `AutoModelForMaskedLM.from_pretrained("{name}")` loads it; the mask token is {mask}.
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
            parameters=sum(weight.numel() for part in prior.parts.values() for weight in part.parameters()) / 1e6,
            codes=codes_of(source),
            classes=conditions_of(prior),
            tokenizer=source.tokenizer,
            stock=use_of(prior, name),
            prompt="" if prior.text is None else ' --prompt "…"',
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


def conditions_of(prior: Prior) -> str:
    """What the codes depend on, in words."""
    if prior.text is None:
        return f"{len(prior.vocabulary.classes)} classes" if prior.vocabulary.classes else "no classes"
    about = prior.text.config
    if prior.text.bytes is not None:
        return f"texts of up to {about.tokens} bytes"
    at = f" at `{about.revision}`" if about.revision else ""
    return f"texts of up to {about.tokens} tokens through the frozen encoder `{about.encoder}`{at}, not part of it"


def use_of(prior: Prior, name: str) -> str:
    """How a prior is used without vqloom, as far as it can be."""
    vocabulary, source = prior.vocabulary, prior.source
    if prior.kind == "depth":
        why = "a transformer over the places and one over the codes of each take turns"
        loads, what = (
            f"`{prior.stock}.from_pretrained`",
            f"the one in `{name}`, `AutoModelForCausalLM` that in `depth/`",
        )
        return OWN.format(why=why, loads=loads, what=what)
    if prior.kind == "multiscale":
        why = "what the transformer hears is made of the tokenizer's codebook and convolutions, copies in `pyramid/`"
        return OWN.format(why=why, loads=f'`{prior.stock}.from_pretrained("{name}")`', what="it")
    if prior.text is not None:
        why = "a text is heard as a prefix of embeddings, made by what lies in `text/`"
        return OWN.format(why=why, loads=f'`{prior.stock}.from_pretrained("{name}")`', what="the one over codes")
    if vocabulary.masked:
        return MASKED.format(name=name, mask=vocabulary.mask)
    return CAUSAL.format(name=name, first=source.codebook_size, grid="×".join(map(str, source.grid)))
