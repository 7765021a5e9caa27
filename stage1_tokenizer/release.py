"""Release a tokenizer: `python -m stage1_tokenizer.release RUN OUT --licence apache-2.0 [--push ORG/NAME]`.

OUT/model.safetensors, config.json, preprocessor_config.json   what `Tokenizer.from_pretrained` reads (averaged weights)
OUT/discriminator.safetensors         by choice, for fine-tuning
OUT/modeling_vqloom.py and others     what `AutoModel.from_pretrained(OUT, trust_remote_code=True)` reads
OUT/metrics.json                      its figures, and how they were measured
OUT/README.md, reconstructions.png    the model card
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.command.cli import UserError, parse, run
from stage1_tokenizer.hub import HubConfig, check_name, push
from stage1_tokenizer.publishing.folder import CARD, METRICS, check_release, is_figure, new_folder
from stage1_tokenizer.publishing.licences import check_licence
from stage1_tokenizer.tokenizer.opening import OpenedRun, open_run, read_state

if TYPE_CHECKING:
    pass

SHOWN = 8
"""Pictures beside their reconstructions in the card."""


@dataclass(frozen=True)
class ReleaseConfig:
    """Make a folder that others can use from a run's newest checkpoint."""

    run: str
    """Folder of the training run; on the command line, the first word."""
    out: str
    """Folder to be made; one that exists is left alone. The second word."""
    licence: str | None = None
    """Licence of the weights, by its Hub identifier (apache-2.0, mit, cc-by-nc-4.0, …). There is no release without."""
    metrics: str | None = None
    """JSON file of stage1_tokenizer.evaluate on this run; null: the run's own last evaluation."""
    name: str | None = None
    """The tokenizer's name in its card; null: the repository's, or the folder's."""
    limits: str | None = None
    """A sentence or more for the card: what the tokenizer should not be used for, or is bad at."""
    discriminator: bool = False
    """Add the discriminator, so that others can fine-tune."""
    push: str | None = None
    """Repository on the Hub, ORG/NAME, to push the folder to; it is made if it isn't there."""
    private: bool = False
    """Make that repository a private one."""
    revision: str | None = None
    """Branch to push to; null: main."""
    endpoint: str | None = None
    """Address of the Hub; null: HF_ENDPOINT, or huggingface.co."""

    def __post_init__(self) -> None:
        check_licence(self.licence)
        check_name(self.push)


def release(config: ReleaseConfig) -> Path:
    """Write the folder, whole or not at all, and push it if it is wished; the folder.

    Raises UserError where `out` exists, the run has no whole checkpoint, has no figures, or `metrics` was measured on
    other weights; and where what was made doesn't load with transformers alone to the same codes.
    """
    from stage1_tokenizer.publishing.card import write_card
    from stage1_tokenizer.publishing.standalone import try_out, write_model_files

    out = Path(config.out)
    with new_folder(out) as part:
        opened = open_run(Path(config.run))
        metrics = _given_metrics(config.metrics, opened) if config.metrics else _own_metrics(opened)
        if not any(is_figure(value) for value in metrics.values()):
            raise UserError(
                f"run={config.run} was not evaluated at its newest checkpoint: measure it with "
                f"stage1_tokenizer.evaluate --tokenizer {config.run} --out FILE, and give --metrics FILE"
            )
        opened.tokenizer.save_pretrained(part)
        if config.discriminator:
            _add_discriminator(part, opened)
        (part / METRICS).write_text(json.dumps(metrics, indent=2) + "\n")
        write_model_files(part)
        pictures = _add_pictures(part, opened, metrics)
        write_card(part / CARD, config, opened, metrics, pictures)
        try_out(part, opened.tokenizer)
        check_release(part)
    if config.push is not None:
        print(push(HubConfig(str(out), config.push, config.private, config.revision, config.endpoint)))
    return out


def _add_discriminator(part: Path, opened: OpenedRun) -> None:
    """discriminator.safetensors of the same checkpoint; UserError where the run has none."""
    from stage1_tokenizer.foreign.discriminator import save

    saved = opened.checkpoint / "discriminator.pt"
    if not saved.is_file():
        raise UserError(f"discriminator=true, but {opened.checkpoint} has none: leave it out")
    save(part, read_state(saved), opened.config["loss"]["adversarial"])


def _add_pictures(part: Path, opened: OpenedRun, metrics: dict[str, Any]) -> str | None:
    """Pictures beside their reconstructions; the set they are of, None where none of the run's is there."""
    from stage1_tokenizer.measuring.side_by_side import save_pictures
    from stage1_tokenizer.publishing.card import PICTURES

    if opened.tokenizer.config.spatial_dims != 2:
        return None
    for index in (
        metrics["measured"].get("data"),
        opened.config["data"].get("held_out"),
        opened.config["data"]["index"],
    ):
        if index and Path(index).is_file():
            save_pictures(part / PICTURES, opened.tokenizer, index, SHOWN)
            return str(index)
    return None


def _given_metrics(path: str, opened: OpenedRun) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = json.loads(Path(path).read_text())
        measured = metrics["measured"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"metrics={path} is no file of stage1_tokenizer.evaluate ({error}): make it anew") from error
    if measured != opened.tokenizer.fingerprint:
        raise UserError(
            f"metrics={path} was measured on other weights than the newest checkpoint of {opened.folder}: "
            f"run stage1_tokenizer.evaluate --tokenizer {opened.folder} again"
        )
    return metrics


def _own_metrics(opened: OpenedRun) -> dict[str, Any]:
    """The run's evaluation at the checkpoint's step; only what it is made of where there is none."""
    from launch.run.metrics import FILE, read

    lines = [line for line in read(opened.folder / FILE) if line["kind"] == "eval" and line["step"] == opened.step]
    found = {name.removeprefix("eval/"): value for name, value in (lines[-1] if lines else {}).items() if "/" in name}
    limit = opened.config.get("evaluate_samples")
    measured = {
        "by": "the training run's last evaluation, of averaged weights" if lines else "nothing: not measured",
        "data": opened.config["data"].get("held_out"),
        "subset": "all pictures" if limit is None else f"at most {limit} pictures, evenly spaced",
        "pictures": "clamped and rounded to 8 bits, data range 255; every picture once, mean over pictures",
        "lpips": f"{opened.config['loss']['perceptual']['net']}, version 0.1",
        "transform": opened.config["data"]["transform"],
        "fingerprint": opened.tokenizer.fingerprint,
        **{name: opened.origin.get(name) for name in ("commit", "hardware", "versions", "date")},
    }
    return {**found, "measured": measured}


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    prog = "python -m stage1_tokenizer.release RUN OUT"
    print(release(parse(ReleaseConfig, argv, prog=prog, positional=("run", "out"))))


if __name__ == "__main__":
    run(main)
