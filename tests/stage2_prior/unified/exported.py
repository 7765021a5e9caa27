"""A small unified prior as an export, over the codes of an index."""

from __future__ import annotations

from pathlib import Path

import torch

from data.shards.loading import load_index
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.unified import UnifiedPrior
from tests.stage2_prior.unified.tiny import vocabulary


def write_unified(folder: Path, codes: str, *, positions: int = 96, spread: float = 8.0) -> str:
    """An untrained prior of single bytes and these codes; `spread` scales its matrices: choices far from uniform."""
    torch.manual_seed(0)
    source = CodeSource.of_index(load_index(codes), codes)
    config = PriorModelConfig(kind="unified", layers=1, width=16, heads=2)
    prior = UnifiedPrior.fresh(config, vocabulary(source), positions).eval()
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(spread)
    prior.save_pretrained(folder)
    return str(folder)
