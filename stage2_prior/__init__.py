"""Stage two: a prior over a tokenizer's codes, and new pictures from it.

    from stage1_tokenizer import Tokenizer
    from stage2_prior import load_prior

Commands (`--help` explains each setting, `--print_config` prints them):

    encode    shards of pictures to shards of codes, each sample once over all ranks, resumed shard by shard
    train     a prior from a recipe: python -m launch.local --processes 8 stage2_prior.train --config RECIPE
    sample    --count pictures of every class or prompt: PNGs, a grid, ADM's .npz; the same on any number of ranks
    inpaint   redraw parts of given pictures; what is kept keeps its codes
    evaluate  held-out bits per code, a classifier's agreement, distances between sets
    release   a folder; autoregressive and masked priors are stock transformers models
    demo      a local web page

Kinds of prior (`model.kind`):

    autoregressive  a stock Llama over the codes in raster or annealed random order (RAR)
    masked          a stock ModernBERT with a mask token; confidence or Halton order (MaskGIT)
    multiscale      scale by scale, for `multiscale` codes (VAR)
    depth           a Llama over positions, a small one over the codes of a position, for `residual` and `product` (RQ)

Rooms:

    config       settings, without torch
    codes        codes on disk and their vocabulary
    generation   codes from logits
    priors       the kinds of prior and their conditions
    sampling     pictures from a prior
    web          the demo page
    training, measuring, publishing   optimizer and cost, metrics, model card

Code shards carry the tokenizer's fingerprint, so that a prior can't be used with another tokenizer's codes.
`docs/priors.md` has the tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage2_prior.codes.vocabulary import Vocabulary
    from stage2_prior.config.drawing import Drawing
    from stage2_prior.priors.autoregressive import AutoregressivePrior
    from stage2_prior.priors.build import build_prior, load_prior
    from stage2_prior.priors.depth import DepthPrior
    from stage2_prior.priors.masked import MaskedPrior
    from stage2_prior.priors.multiscale import MultiscalePrior

__all__ = [
    "AutoregressivePrior",
    "DepthPrior",
    "Drawing",
    "MaskedPrior",
    "MultiscalePrior",
    "Vocabulary",
    "build_prior",
    "load_prior",
]

_HOMES = {
    "AutoregressivePrior": "stage2_prior.priors.autoregressive",
    "DepthPrior": "stage2_prior.priors.depth",
    "Drawing": "stage2_prior.config.drawing",
    "MaskedPrior": "stage2_prior.priors.masked",
    "MultiscalePrior": "stage2_prior.priors.multiscale",
    "Vocabulary": "stage2_prior.codes.vocabulary",
    "build_prior": "stage2_prior.priors.build",
    "load_prior": "stage2_prior.priors.build",
}


def __getattr__(name: str) -> Any:
    """Import torch on first use only, so that `--help` and wrong options answer at once."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
