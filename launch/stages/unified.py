"""What the pipeline does besides where its prior is a unified one, of texts and codes in one vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.stages.stage import Stage, options

SHOWN = 24
"""Held-out samples that are described for the report."""

COMPOSED = ("captioned_digits",)
"""Sets whose pictures are checked cell by cell against their sentences."""


def text_tokenizer(folder: Path) -> Stage:
    """What learns the tokenizer of texts from the captions of the training codes."""
    codes, out = folder / "codes" / "train" / "index.json", folder / "text-tokenizer" / "tokenizer.json"
    words = options(data=codes, out=out, overwrite=True)
    return Stage("text-tokenizer", "learn a tokenizer of texts", "stage2_prior.text_tokenizer", words, (out,))


def captions(folder: Path, held_out: Path) -> Stage:
    """What describes held-out samples."""
    run, tokenizer, out = folder / "prior-run", folder / "tokenizer", folder / "captions"
    words = (str(held_out), *options(prior=run, tokenizer=tokenizer, out=out, limit=SHOWN))
    title, makes = "describe held-out samples", (out / "captions.json",)
    return Stage(out.name, title, "stage2_prior.describe", words, makes, reads=(held_out,))


def measured(data: str, kind: str, samples: Path, train: Path, held_out: Path) -> dict[str, Any]:
    """What is measured besides likelihoods: whether samples show what their texts say, where that can be checked.

    Of other pictures their distances from held-out ones.
    """
    if data in COMPOSED:
        return {"samples": samples, "data": train, "held_out": held_out}
    return {"samples": samples, "reference": held_out} if kind == "pictures" else {}
