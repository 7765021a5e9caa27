"""Every kind of prior by one door: building a fresh one and loading a saved one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.cli import UserError
from stage2_prior.autoregressive import AutoregressivePrior
from stage2_prior.codes import CodeSource
from stage2_prior.masked import MaskedPrior
from stage2_prior.prior import DESCRIPTION, Prior
from stage2_prior.vocabulary import Vocabulary

if TYPE_CHECKING:
    from stage2_prior.config import PriorModelConfig

KINDS: dict[str, type[Prior]] = {kind.kind: kind for kind in (AutoregressivePrior, MaskedPrior)}
"""The classes by `model.kind`."""


def build_prior(config: PriorModelConfig, source: CodeSource, classes: Sequence[str]) -> Prior:
    """A prior with fresh weights (from torch's generator) for codes of `source`."""
    names = tuple(classes) if config.condition == "class" else ()
    vocabulary = Vocabulary(source.codebook_size, names, masked=config.kind == "masked")
    return KINDS[config.kind].build(config, vocabulary, source)


def load_prior(folder: str | Path) -> Prior:
    """The prior in a release or at the end of a run (RUN/prior), in evaluation mode, float32, on the CPU.

    Raises UserError where there is none.
    """
    place = _place(Path(folder))
    try:
        described = json.loads((place / DESCRIPTION).read_text())
        vocabulary, source = Vocabulary.from_dict(described["vocabulary"]), CodeSource.from_dict(described["codes"])
        kind = KINDS[described["kind"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place / DESCRIPTION} can't be read ({error}): export the prior again") from error
    return kind.load(place, vocabulary, source)


def _place(folder: Path) -> Path:
    for place in (folder / "prior", folder):
        if (place / DESCRIPTION).exists():
            return place
    raise UserError(f"prior={folder} holds no {DESCRIPTION}: name a finished run's folder or a released prior")
