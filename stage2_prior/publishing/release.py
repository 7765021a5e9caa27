"""A finished run of a prior as a released folder."""

import json
from pathlib import Path
from typing import Any

from launch.command.cli import UserError
from launch.files.atomic import new_folder
from launch.files.inputs import settings_of
from launch.files.places import without_places
from launch.run.folder import CONFIG, ORIGIN
from stage1_tokenizer.publishing.card import Publication
from stage1_tokenizer.publishing.folder import CARD, METRICS, given_figures, own_figures
from stage1_tokenizer.publishing.sets import set_of
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage2_prior.priors.base import DESCRIPTION, weights_hash
from stage2_prior.priors.build import load_prior
from stage2_prior.publishing.card import write_card


def release_prior(
    run: str, out: Path, publication: Publication, *, tokenizer: str | None = None, metrics: str | None = None
) -> None:
    """Write the folder, whole or not at all.

    Raises UserError if `out` exists, if the run isn't a finished one of a prior, and if `tokenizer` or `metrics` don't
    belong to it.
    """
    with new_folder(out) as part:
        config, origin = _about_run(Path(run))
        prior = load_prior(run)
        if tokenizer is not None:
            fingerprint = Tokenizer.from_pretrained(tokenizer).code_fingerprint
            prior.over_codes_of(fingerprint, "tokenizer", tokenizer)
        if metrics:
            command = f"stage2_prior.evaluate --prior {run}"
            figures = given_figures(metrics, lambda result: result["prior_weights"], weights_hash(prior), command)
            figures = without_places(figures)
        elif figures := own_figures(Path(run), config["steps"]):
            figures["data"] = set_of(Path(run), config, "held_out")
        prior.condition.forget_places()
        prior.save_pretrained(part, steps=config["steps"], data=set_of(Path(run), config, "index"))
        (part / METRICS).write_text(json.dumps(figures, indent=2) + "\n")
        write_card(part / CARD, publication, prior, Path(run), config, origin, figures)


def _about_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run's configuration and origin (run.json)."""
    if not (folder / CONFIG).exists():
        raise UserError(f"prior={folder} is not a run folder, it has no {CONFIG}: give a training run's run.folder")
    config = settings_of(folder / CONFIG)
    if "kind" not in (config.get("model") or {}):
        raise UserError(f"prior={folder} is not a prior's run: give a run of stage2_prior.train")
    if not (folder / "prior" / DESCRIPTION).exists():
        raise UserError(f"prior={folder} isn't finished: resume its training until its last step")
    origin = settings_of(folder / ORIGIN) if (folder / ORIGIN).exists() else {}
    return config, origin
