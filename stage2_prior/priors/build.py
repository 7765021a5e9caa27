"""The table of kinds of prior; building a fresh prior and loading a saved one."""

import json
from collections.abc import Sequence
from pathlib import Path

from launch.command.cli import UserError
from launch.files.downloads import fetched
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.factors import factors_for
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.autoregressive import AutoregressivePrior
from stage2_prior.priors.base import DESCRIPTION, Prior
from stage2_prior.priors.bits import BitsPrior
from stage2_prior.priors.condition import TEXT, ClassCondition, TextCondition
from stage2_prior.priors.delay import DelayPrior
from stage2_prior.priors.depth import DepthPrior
from stage2_prior.priors.dropout import drop_out
from stage2_prior.priors.factors import FactorsPrior
from stage2_prior.priors.masked import MaskedPrior
from stage2_prior.priors.masked_factors import MaskedBitsPrior, MaskedFactorsPrior
from stage2_prior.priors.multiscale import MultiscalePrior
from stage2_prior.priors.text_prefix import TextPrefix
from stage2_prior.priors.unified import UnifiedPrior

KINDS: dict[str, type[Prior]] = {
    kind.kind: kind for kind in (AutoregressivePrior, MaskedPrior, MultiscalePrior, DepthPrior, DelayPrior)
}
"""The classes by `model.kind`, with model.head=softmax."""
HEADS: dict[tuple[str, str], type[Prior]] = {
    (kind.kind, kind.head): kind for kind in (FactorsPrior, BitsPrior, MaskedFactorsPrior, MaskedBitsPrior)
}
"""The classes by `model.kind` and another `model.head`."""
MEANINGS = {"grid": "one code a place", "levels": "several codes a place", "scales": "next-scale codes"}
"""The forms of codes in words."""


def prior_class(kind: str, head: str) -> type[Prior]:
    """The class of a kind of prior and a head."""
    return KINDS[kind] if head == "softmax" else HEADS[kind, head]


def build_prior(
    config: PriorModelConfig, source: CodeSource, classes: Sequence[str], quantizer: Quantizer | None = None
) -> Prior:
    """A prior with fresh weights (from torch's generator) for codes of `source`.

    `quantizer` is the tokenizer's, which kind=multiscale needs. UserError where the kind is for another form of codes.
    """
    check_form(config.kind, source, config.head)
    names = tuple(classes) if config.condition == "class" else ()
    kind = prior_class(config.kind, config.head)
    factors = factors_for(config.kind, config.head, config.factors, source.codebook_size)
    vocabulary = Vocabulary(source.codebook_size, names, kind.mask_token, source.codebooks, factors)
    prior = kind.build(config, vocabulary, source, quantizer)
    prior.set_training(config)
    drop_out(prior, config)
    if config.condition == "text":
        prior.set_condition(TextCondition(vocabulary, TextPrefix(config.text, config.width, config.heads)))
    elif config.class_tokens > 1:
        prior.set_condition(ClassCondition(vocabulary, config.class_tokens))
    return prior


def check_form(kind: str, source: CodeSource, head: str = "softmax") -> None:
    """UserError unless this kind of prior, with this head, models codes of this form."""
    if head != "softmax" and source.form != "grid":
        raise UserError(
            f"model.head={head} doesn't support codes of shape {'×'.join(map(str, source.shape))} "
            f"({MEANINGS[source.form]}): set model.head to softmax"
        )
    if source.form not in KINDS[kind].forms:
        fitting = " or ".join(other for other, prior in KINDS.items() if source.form in prior.forms)
        raise UserError(
            f"model.kind={kind} doesn't support codes of shape {'×'.join(map(str, source.shape))} "
            f"({MEANINGS[source.form]}): set model.kind to {fitting}"
        )


def load_prior(folder: str | Path, revision: str | None = None, text_encoder: str | None = None) -> Prior:
    """The prior in a release or at the end of a run (RUN/prior), in evaluation mode, float32, on the CPU.

    `folder` may also be a name on the Hub, ORG/NAME, and `revision` a branch, tag or commit there. `text_encoder` is
    the folder or name of a text prior's frozen encoder, if it has moved since the export. UserError where there is no
    prior.
    """
    place = _place(fetched(folder, revision))
    try:
        described = json.loads((place / DESCRIPTION).read_text())
        if described["kind"] == UnifiedPrior.kind:
            return UnifiedPrior.opened(place, described)
        vocabulary, source = Vocabulary.from_dict(described["vocabulary"]), CodeSource.from_dict(described["codes"])
        kind = prior_class(described["kind"], described.get("head", "softmax"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{place / DESCRIPTION} can't be read ({error}): export the prior again") from error
    prior = kind.load(place, vocabulary, source)
    if described.get("condition") == "text":
        text = TextPrefix.from_pretrained(place / TEXT, text_encoder).eval()
        prior.set_condition(TextCondition(vocabulary, text))
        return prior
    if "class_tokens" in described:
        prior.set_condition(ClassCondition(vocabulary, int(described["class_tokens"])))
    if text_encoder is not None:
        raise UserError(f"text_encoder={text_encoder} needs a prior of texts, which {folder} isn't: leave it out")
    return prior


def _place(folder: Path) -> Path:
    for place in (folder / "prior", folder):
        if (place / DESCRIPTION).exists():
            return place
    raise UserError(f"prior={folder} holds no {DESCRIPTION}: name a finished run's folder or a released prior")
