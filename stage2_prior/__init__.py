"""Stage two: codes to new codes. `from stage2_prior import load_prior`.

Commands: encode, train, sample, evaluate, release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage2_prior.autoregressive import AutoregressivePrior
    from stage2_prior.drawing import Drawing
    from stage2_prior.masked import MaskedPrior
    from stage2_prior.priors import build_prior, load_prior
    from stage2_prior.vocabulary import Vocabulary

__all__ = ["AutoregressivePrior", "Drawing", "MaskedPrior", "Vocabulary", "build_prior", "load_prior"]

_HOMES = {
    "AutoregressivePrior": "stage2_prior.autoregressive",
    "Drawing": "stage2_prior.drawing",
    "MaskedPrior": "stage2_prior.masked",
    "Vocabulary": "stage2_prior.vocabulary",
    "build_prior": "stage2_prior.priors",
    "load_prior": "stage2_prior.priors",
}


def __getattr__(name: str) -> Any:
    """Load torch only once something is asked for, so that `--help` and wrong options are answered at once."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
