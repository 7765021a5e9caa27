"""Stage two: a prior over a tokenizer's codes, and new pictures from it.

    from stage1_tokenizer import Tokenizer
    from stage2_prior import load_prior

Commands: encode, train, sample, inpaint, evaluate, release, demo (`--help` explains each setting). Kinds of prior, the
choices of `model.kind`: autoregressive, masked, multiscale, depth, delay, and over text and codes unified; each module
in `priors` has its equations.

Code shards carry the tokenizer's fingerprint, so that a prior can't be used with another tokenizer's codes.
`docs/priors.md` has the tasks.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "AutoregressivePrior": "stage2_prior.priors.autoregressive",
    "DelayPrior": "stage2_prior.priors.delay",
    "DepthPrior": "stage2_prior.priors.depth",
    "Drawing": "stage2_prior.config.drawing",
    "MaskedPrior": "stage2_prior.priors.masked",
    "MultiscalePrior": "stage2_prior.priors.multiscale",
    "UnifiedPrior": "stage2_prior.priors.unified",
    "Vocabulary": "stage2_prior.codes.vocabulary",
    "build_prior": "stage2_prior.priors.build",
    "load_prior": "stage2_prior.priors.build",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import torch on first use only, so that `--help` and wrong options answer at once."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
