"""Texts as bytes: their loss term and figures, and how they are shown."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from data.reading.stream import every_sample
from data.texts.config import TextConfig
from data.texts.windows import ByteBatch, one_hot
from launch.files.atomic import write_file
from launch.run.runtime import Run
from stage1_tokenizer.config.losses import LossConfig
from stage1_tokenizer.losses.bytes import CrossEntropyTerm
from stage1_tokenizer.losses.term import Term, further_terms
from stage1_tokenizer.measuring.features import FeatureName
from stage1_tokenizer.measuring.text_scores import measure_texts, read_back
from stage1_tokenizer.media.medium import Medium
from stage1_tokenizer.tokenizer.model import Tokenizer

SHOWN = 8
"""Held-out windows shown at each evaluation."""


def input_of(batch: ByteBatch, device: torch.device) -> Tensor:
    """x_BCT, one-hot."""
    return one_hot(batch.byte_BT.to(device, non_blocking=True), batch.lengths_B.to(device, non_blocking=True))


def terms(config: LossConfig, transform: TextConfig) -> list[Term]:
    """Those of loss.terms."""
    return further_terms(config.terms, {"cross_entropy": CrossEntropyTerm})


def measure(
    tokenizer: Tokenizer, batches: Iterable[ByteBatch], terms: list[Term], features: FeatureName, run: Run
) -> dict[str, float]:
    """The figures of `measure_texts`."""
    return measure_texts(tokenizer, batches, device=run.device, total=run.sum)


def show(path: Path, tokenizer: Tokenizer, index: str) -> None:
    """Write a .txt with held-out windows above their reconstructions."""
    transform, device = tokenizer.transform, next(tokenizer.parameters()).device
    assert isinstance(transform, TextConfig)
    batch = next(iter(every_sample(index, transform, batch_size=SHOWN, limit=SHOWN)))
    y_BCT, _ = read_back(tokenizer, input_of(batch, device))
    lines = []
    for row, length in enumerate(batch.lengths_B.tolist()):
        for byte_T in (batch.byte_BT[row, :length], y_BCT[row, :, :length].argmax(0)):
            lines.append(repr(bytes(byte_T.tolist()).decode(errors="replace")))
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path.with_suffix(".txt"), "\n".join(lines))


TEXTS = Medium("texts", (), input_of, terms, measure, show, shown="texts")
"""The record; no discriminator takes texts."""
