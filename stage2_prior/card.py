"""The model card of a released prior."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage2_prior.prior import Prior
    from stage2_prior.release import ReleaseConfig

TEMPLATE = """---
license: {licence}
library_name: transformers
tags:
- image-generation
- vqloom
---

# {name}

A {kind} prior made with vqloom: {parameters:.2f} M parameters over {grid} codes out of {codes}, {classes}.

Its codes are those of the tokenizer with the fingerprint `{tokenizer}`; another one's decoder gives noise.

## Use

With vqloom: `python -m stage2_prior.sample --prior {name} --tokenizer TOKENIZER --out DIR --count 10 --guidance 3`.
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
    from stage1_tokenizer.card import said, trained_on

    vocabulary, source = prior.vocabulary, prior.source
    grid = "×".join(map(str, source.grid))
    name = config.name or Path(config.out).resolve().name
    stock = MASKED.format(name=name, mask=vocabulary.mask) if vocabulary.masked else CAUSAL.format(
        name=name, first=source.codebook_size, grid=grid
    )  # fmt: skip
    figures = [f"| {key} | {value:.4g} |" for key, value in metrics.items() if isinstance(value, (int, float))]
    path.write_text(
        TEMPLATE.format(
            licence=config.licence,
            name=name,
            kind=prior.kind,
            parameters=sum(weight.numel() for weight in prior.lm.parameters()) / 1e6,
            grid=grid,
            codes=source.codebook_size,
            classes=f"{len(vocabulary.classes)} classes" if vocabulary.classes else "no classes",
            tokenizer=source.tokenizer,
            stock=stock,
            last=source.codebook_size - 1,
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
