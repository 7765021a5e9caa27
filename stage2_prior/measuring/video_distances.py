"""Distances between sampled and real clips: those of stage one's evaluation, for samples of a prior.

Shapes: B clips, C channels, T frames, H W pixels.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from data.shards.tally import Tally
from data.videos.config import VideoConfig
from launch.command.cli import UserError
from launch.files.places import without_places
from launch.ranks.joined import Ranks
from stage1_tokenizer.measuring.distances import SetSums
from stage1_tokenizer.measuring.evaluation import Evaluation
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.picture_files import finished
from stage1_tokenizer.measuring.picture_sets import SampleHash, every_picture
from stage1_tokenizer.measuring.references import MeasuredSet, describe, settle
from stage2_prior.config.evaluation import EvaluateConfig
from stage2_prior.measuring.video_classifier import VIDEOS

Clips = tuple[torch.Tensor, list[str]]
"""Clips, uint8 pixels_BCTHW, and their keys."""


def add_video_distances(
    config: EvaluateConfig, transform: VideoConfig, network: FeatureNetwork, evaluation: Evaluation
) -> None:
    """Add the distances of `samples`, a folder of stage2_prior.sample, from `reference`, an index of clips.

    UserError for what they can't be measured from.
    """
    assert config.samples is not None and config.reference is not None
    for name in ("save_reference", "resize"):
        if getattr(config, name):
            raise UserError(f"{name} is for pictures, not for videos: leave it out")
    if Path(config.reference).is_dir() or finished(config.reference) is not None:
        raise UserError(f"reference={config.reference} is no index of videos: pack them, and give their index")
    ranks = evaluation.ranks
    options: dict[str, Any] = {"batch_size": config.batch_size, "allow_left_out": config.allow_left_out}
    tally = Tally()
    batches: Any = every_picture(
        config.reference, transform, rank=ranks.rank, world_size=ranks.world_size, tally=tally, **options
    )
    real = ((batch.pixels_BCTHW, batch.keys) for batch in batches)
    reference = _measured(config.reference, real, transform, network, ranks, config.kept)
    settle(tally, ranks, config.allow_left_out, of="videos", quiet=True)
    file = Path(config.samples) / "samples.json"
    if not file.is_file():
        raise UserError(f"samples={config.samples} holds no samples.json: give a folder of stage2_prior.sample")
    described = json.loads(file.read_text())
    drawn = _samples(config, described, transform, ranks)
    samples = _measured(config.samples, drawn, transform, network, ranks, config.kept)
    evaluation.add(
        {"samples": samples.statistics.count},
        measured_set=samples.about,
        samples=samples.statistics.count,
        sampling=without_places(described.get("settings")),
    )
    evaluation.add_distances(network, samples.statistics, reference, kept=config.kept)


def _samples(
    config: EvaluateConfig, described: dict[str, Any], transform: VideoConfig, ranks: Ranks
) -> Iterator[Clips]:
    """This rank's part of the samples."""
    names = [f"{one['folder']}/{number:05d}.webp" for one in described["classes"] for number in range(one["count"])]
    names = names[len(names) * ranks.rank // ranks.world_size : len(names) * (ranks.rank + 1) // ranks.world_size]
    for start in range(0, len(names), config.batch_size):
        keys = names[start : start + config.batch_size]
        clips = [torch.from_numpy(VIDEOS.read(Path(str(config.samples)) / key, transform)) for key in keys]
        yield torch.stack(clips), keys


@torch.no_grad()
def _measured(
    source: str, clips: Iterator[Clips], transform: VideoConfig, network: FeatureNetwork, ranks: Ranks, kept: int
) -> MeasuredSet:
    """A set's statistics over all ranks."""
    sums, digest = SetSums(network, ranks.device, kept), SampleHash(ranks.device)
    for pixels_BCTHW, keys in clips:
        digest.add_rows(pixels_CTHW.transpose(0, 1) for pixels_CTHW in pixels_BCTHW)
        sums.add(network(pixels_BCTHW.to(ranks.device)), keys)
    statistics = sums.result(ranks.sum, ranks.gather)
    if not statistics.count:
        raise UserError(f"{source} holds no videos: give another set")
    about = describe(source, digest.result(ranks.sum), statistics, None, (transform.size,) * 2)
    return MeasuredSet(statistics, {**about, "transform": transform.to_dict()})
