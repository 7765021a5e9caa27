"""A run's newest checkpoint as a released folder."""

import json
from pathlib import Path
from typing import Any

from data.shards.identity import Identity, set_name
from data.sounds.config import SoundConfig
from data.videos.config import VideoConfig
from launch.command.cli import UserError
from launch.files.atomic import new_folder
from launch.files.places import without_places
from stage1_tokenizer.foreign import discriminator as carried
from stage1_tokenizer.measuring.side_by_side import save_pictures
from stage1_tokenizer.measuring.sound_metrics import definitions
from stage1_tokenizer.measuring.sound_scores import levels
from stage1_tokenizer.measuring.sounds_shown import save_sounds
from stage1_tokenizer.measuring.video_metrics import definitions as video_definitions
from stage1_tokenizer.measuring.videos_shown import save_videos
from stage1_tokenizer.publishing.card import PICTURES, SOUNDS, VIDEOS, Publication, write_card
from stage1_tokenizer.publishing.folder import CARD, METRICS, check_release, given_figures, is_figure, own_figures
from stage1_tokenizer.publishing.sets import index_of, set_of
from stage1_tokenizer.publishing.standalone import try_out, write_model_files
from stage1_tokenizer.tokenizer.opening import OpenedRun, open_run, saved_network

SHOWN, SOUNDS_SHOWN, VIDEOS_SHOWN = 8, 3, 4
"""Pictures, sounds or videos with their reconstructions in the card."""
DIMENSIONS = {"pictures": 2, "sounds": 1, "videos": 3}
"""Axes of the networks for samples of each kind."""


def release_tokenizer(
    run: str, out: Path, publication: Publication, *, metrics: str | None = None, discriminator: bool = False
) -> None:
    """Write the folder, whole or not at all.

    Raises UserError if `out` exists, if the run has no whole checkpoint or no figures, if `metrics` was measured on
    other weights, and if the result doesn't give the same codes when plain transformers loads it.
    """
    with new_folder(out) as part:
        opened = open_run(Path(run))
        if opened.tokenizer.transform is not None and opened.tokenizer.transform.kind not in DIMENSIONS:
            raise UserError(f"run={run} is a tokenizer of {opened.tokenizer.transform.kind}, which can't be released")
        figures = _figures(metrics, opened)
        if not any(is_figure(value) for value in figures.values()):
            raise UserError(
                f"run={run} was not evaluated at its newest checkpoint: measure it with "
                f"stage1_tokenizer.evaluate --tokenizer {run} --out FILE, and give --metrics FILE"
            )
        opened.tokenizer.save_pretrained(part)
        if discriminator:
            _add_discriminator(part, opened)
        (part / METRICS).write_text(json.dumps(figures, indent=2) + "\n")
        write_model_files(part)
        pictures = _add_pictures(part, opened, figures)
        write_card(part / CARD, publication, opened, figures, pictures=pictures, discriminator=discriminator)
        try_out(part, opened.tokenizer)
        check_release(part)


def _add_discriminator(part: Path, opened: OpenedRun) -> None:
    """discriminator.safetensors of the same checkpoint; UserError if the run has none."""
    saved = saved_network(opened.checkpoint, "discriminator")
    if saved is None:
        raise UserError(f"discriminator=true, but {opened.checkpoint} has none: leave it out")
    carried.save(part, saved, opened.config["loss"]["adversarial"])


def _add_pictures(part: Path, opened: OpenedRun, metrics: dict[str, Any]) -> str | None:
    """Samples with their reconstructions; the name of the set they are from, None if no set of the run is there.

    That of the figures is preferred.
    """
    tokenizer = opened.tokenizer
    kind = tokenizer.transform.kind if tokenizer.transform is not None else "pictures"
    if tokenizer.config.spatial_dims != DIMENSIONS.get(kind):
        return None
    found = [index for name in ("held_out", "index") if (index := index_of(opened.config, name)) and not index.remote]
    measured = metrics["measured"].get("data")
    found.sort(key=lambda index: Identity.of(index).brief() != measured)
    if not found:
        return None
    if kind == "videos":
        save_videos(part / VIDEOS, part / PICTURES, tokenizer, found[0], VIDEOS_SHOWN)
    elif kind == "sounds":
        books = tuple(levels(tokenizer)[:-1])
        save_sounds(part / SOUNDS, part / PICTURES, tokenizer, found[0], SOUNDS_SHOWN, books)
    else:
        save_pictures(part / PICTURES, tokenizer, found[0], SHOWN)
    return set_name(found[0])


def _figures(path: str | None, opened: OpenedRun) -> dict[str, Any]:
    """The figures in a file, or those of the run's evaluation at the checkpoint's step, with their conditions."""
    fingerprint = opened.tokenizer.fingerprint
    if path:
        command = f"stage1_tokenizer.evaluate --tokenizer {opened.folder}"
        given: dict[str, Any] = given_figures(
            path, lambda metrics: metrics["measured"]["fingerprint"], fingerprint, command
        )
        return dict(without_places(given))
    figures, config = own_figures(opened.folder, opened.step), opened.config
    limit, transform = config.get("evaluate_samples"), opened.tokenizer.transform
    what = transform.kind if transform else "pictures"
    if isinstance(transform, SoundConfig):
        how: dict[str, Any] = {"metrics": definitions(transform.sample_rate)}
    elif isinstance(transform, VideoConfig):
        how = {"metrics": video_definitions(tuple(figures)), "frames": transform.frames}
        how |= {"lpips": f"{config['loss']['perceptual']['net']}, version 0.1"} if "lpips" in figures else {}
    else:
        how = {
            "pictures": "clamped and rounded to 8 bits, data range 255; every picture once, mean over pictures",
            "lpips": f"{config['loss']['perceptual']['net']}, version 0.1",
        }
    measured = {
        "by": "the training run's last evaluation, of averaged weights" if figures else "nothing: not measured",
        "data": set_of(opened.folder, config, "held_out"),
        "subset": f"all {what}" if limit is None else f"at most {limit} {what}, evenly spaced",
        **how,
        "transform": config["data"]["transform"],
        "fingerprint": fingerprint,
        **{name: opened.origin.get(name) for name in ("commit", "hardware", "versions", "date")},
    }
    return {**figures, "measured": measured}
