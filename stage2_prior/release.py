"""Release a prior: `python -m stage2_prior.release --prior RUN --out DIR`.

DIR/model.safetensors, config.json, generation_config.json   what plain `transformers` loads (averaged weights)
DIR/prior.json      what the tokens mean, and which tokenizer's codes they are, by its fingerprint
DIR/metrics.json    its figures
DIR/README.md       the model card
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.command.cli import UserError, parse, run

if TYPE_CHECKING:
    from stage2_prior.priors.base import Prior


@dataclass(frozen=True)
class ReleaseConfig:
    """Make a folder that others can use from a finished run."""

    prior: str
    """Folder of the training run."""
    out: str
    """Folder to be made; one that exists is left alone."""
    tokenizer: str | None = None
    """The released tokenizer, to be sure that the prior is over its codes; null: not checked, known by its hash."""
    metrics: str | None = None
    """JSON file of stage2_prior.evaluate on this run; null: the run's own last evaluation."""
    name: str | None = None
    """The prior's name in its card; null: the folder's."""
    licence: str = "unknown"
    """Licence of the weights, by its Hub identifier (apache-2.0, mit, cc-by-nc-4.0, …)."""


def release(config: ReleaseConfig) -> Path:
    """Write the folder, whole or not at all; the folder.

    Raises UserError where `out` exists, the run isn't a finished one of a prior, or `tokenizer` or `metrics` are not
    of it.
    """
    from stage1_tokenizer.publishing.folder import CARD, METRICS, new_folder
    from stage2_prior.priors.build import load_prior
    from stage2_prior.publishing.card import write_card

    out = Path(config.out)
    with new_folder(out) as part:
        settings, origin = _of_run(Path(config.prior))
        prior = load_prior(config.prior)
        if config.tokenizer is not None:
            from stage1_tokenizer import Tokenizer

            fingerprint = Tokenizer.from_pretrained(config.tokenizer).fingerprint
            prior.source.must_be_of(fingerprint, "tokenizer", config.tokenizer)
        metrics = _given_metrics(config, prior) if config.metrics else _own_metrics(Path(config.prior), settings)
        prior.save_pretrained(part, steps=settings["steps"], data=settings["data"]["index"])
        (part / METRICS).write_text(json.dumps(metrics, indent=2) + "\n")
        write_card(part / CARD, config, prior, settings, origin, metrics)
    return out


def _of_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run's configuration and origin (run.json)."""
    import yaml

    from launch.run.folder import CONFIG, ORIGIN
    from stage2_prior.priors.base import DESCRIPTION

    if not (folder / CONFIG).exists():
        raise UserError(f"prior={folder} is not a run folder, it has no {CONFIG}: name a run.folder of a training run")
    settings = yaml.safe_load((folder / CONFIG).read_text())
    if "kind" not in settings.get("model", {}):
        raise UserError(f"prior={folder} is not the run of a prior: name one of stage2_prior.train")
    if not (folder / "prior" / DESCRIPTION).exists():
        raise UserError(f"prior={folder} isn't finished: start its training again to go on to its last step")
    origin = json.loads((folder / ORIGIN).read_text()) if (folder / ORIGIN).exists() else {}
    return settings, origin


def _given_metrics(config: ReleaseConfig, prior: Prior) -> dict[str, Any]:
    """The figures of stage2_prior.evaluate; UserError where they are of other weights."""
    from stage2_prior.priors.base import weights_hash

    assert config.metrics is not None
    try:
        metrics: dict[str, Any] = json.loads(Path(config.metrics).read_text())
        measured = metrics["prior_weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"metrics={config.metrics} is no file of stage2_prior.evaluate ({error!r}): make it anew"
        ) from error
    if measured != weights_hash(prior):
        raise UserError(
            f"metrics={config.metrics} was measured on other weights than those of {config.prior}: run "
            f"stage2_prior.evaluate --prior {config.prior} again"
        )
    return metrics


def _own_metrics(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The run's evaluation at its last step, of the averaged weights; empty where there was none."""
    from launch.run.metrics import FILE, read

    lines = [line for line in read(folder / FILE) if line["kind"] == "eval" and line["step"] == settings["steps"]]
    found = {name.removeprefix("eval/"): value for name, value in (lines[-1] if lines else {}).items() if "/" in name}
    return {**found, "data": settings["data"].get("held_out")} if found else {}


def main() -> None:
    """The command."""
    print(release(parse(ReleaseConfig, prog="python -m stage2_prior.release")))


if __name__ == "__main__":
    run(main)
