"""The table of kinds of prior; building a fresh prior and loading a saved one."""

import json
from collections.abc import Sequence
from pathlib import Path

from launch.command.cli import UserError
from launch.files.downloads import fetched
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.priors.autoregressive import AutoregressivePrior
from stage2_prior.priors.base import DESCRIPTION, Prior
from stage2_prior.priors.condition import TEXT, TextCondition
from stage2_prior.priors.delay import DelayPrior
from stage2_prior.priors.depth import DepthPrior
from stage2_prior.priors.masked import MaskedPrior
from stage2_prior.priors.multiscale import MultiscalePrior
from stage2_prior.priors.text_prefix import TextPrefix
from stage2_prior.priors.unified import UnifiedPrior

KINDS: dict[str, type[Prior]] = {
    kind.kind: kind for kind in (AutoregressivePrior, MaskedPrior, MultiscalePrior, DepthPrior, DelayPrior)
}
"""The classes by `model.kind`."""
MEANINGS = {"grid": "one code a place", "levels": "several codes a place", "scales": "next-scale codes"}
"""The forms of codes in words."""


def build_prior(
    config: PriorModelConfig, source: CodeSource, classes: Sequence[str], quantizer: Quantizer | None = None
) -> Prior:
    """A prior with fresh weights (from torch's generator) for codes of `source`.

    `quantizer` is the tokenizer's, which kind=multiscale needs. UserError where the kind is for another form of codes.
    """
    check_form(config.kind, source)
    names = tuple(classes) if config.condition == "class" else ()
    kind = KINDS[config.kind]
    vocabulary = Vocabulary(source.codebook_size, names, kind.mask_token, source.codebooks)
    prior = kind.build(config, vocabulary, source, quantizer)
    prior.set_training(config)
    if config.condition == "text":
        prior.set_condition(TextCondition(vocabulary, TextPrefix(config.text, config.width, config.heads)))
    return prior


def check_form(kind: str, source: CodeSource) -> None:
    """UserError unless this kind of prior models codes of this form."""
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
        kind = KINDS[described["kind"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{place / DESCRIPTION} can't be read ({error}): export the prior again") from error
    prior = kind.load(place, vocabulary, source)
    if described.get("condition") == "text":
        text = TextPrefix.from_pretrained(place / TEXT, text_encoder).eval()
        prior.set_condition(TextCondition(vocabulary, text))
    elif text_encoder is not None:
        raise UserError(f"text_encoder={text_encoder} needs a prior of texts, which {folder} isn't: leave it out")
    return prior


def _place(folder: Path) -> Path:
    for place in (folder / "prior", folder):
        if (place / DESCRIPTION).exists():
            return place
    raise UserError(f"prior={folder} holds no {DESCRIPTION}: name a finished run's folder or a released prior")
