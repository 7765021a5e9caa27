"""Small real parts for the tests of stage two."""

from __future__ import annotations

import torch

from stage2_prior.autoregressive import AutoregressivePrior
from stage2_prior.codes import CodeSource
from stage2_prior.config import PriorModelConfig
from stage2_prior.priors import build_prior

CODES, CLASSES, GRID = 24, ("circle", "square", "star"), (3, 4)
SOURCE = CodeSource("f" * 64, CODES, GRID, {"size": 12, "channels": 1})


def tiny_prior(seed: int = 0, spread: float = 6.0, **settings: object) -> AutoregressivePrior:
    """A prior of two layers; `spread` scales its matrices, so that its choices are far from uniform."""
    torch.manual_seed(seed)
    defaults = {"layers": 2, "width": 32, "heads": 4} | settings
    prior = build_prior(PriorModelConfig(**defaults), SOURCE, CLASSES).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in prior.parameters():
            if weight.ndim == 2:
                weight.mul_(spread)
    return prior


def random_codes(batch: int, seed: int = 1) -> torch.Tensor:
    """code_BN for the tiny prior."""
    return torch.randint(CODES, (batch, SOURCE.positions), generator=torch.Generator().manual_seed(seed))
