"""The part of an evaluation that is for videos: which clips are measured, and under which conditions."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data.shards.tally import Tally
from data.videos.batches import VideoBatch
from data.videos.config import VideoConfig
from launch.command.cli import UserError
from launch.command.progress import Progress
from launch.ranks.joined import Ranks
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.measuring.distances import METHOD
from stage1_tokenizer.measuring.features import FeatureNetwork
from stage1_tokenizer.measuring.picture_files import finished
from stage1_tokenizer.measuring.picture_sets import SampleHash, brief_of, count_of, every_picture
from stage1_tokenizer.measuring.references import settle
from stage1_tokenizer.measuring.video_metrics import definitions
from stage1_tokenizer.measuring.video_scores import ClipSets, measure_videos, names
from stage1_tokenizer.measuring.videos_shown import save_videos
from stage1_tokenizer.tokenizer.model import Tokenizer


def check_videos(config: EvaluateConfig) -> None:
    """Raise UserError for settings that are for pictures, and for videos that aren't in shards."""
    for name in ("reference", "save_reference"):
        if getattr(config, name):
            raise UserError(f"{name} is not supported with videos, whose distances are from the originals: remove it")
    if Path(config.data).is_dir() or finished(config.data) is not None:
        raise UserError(
            f"data={config.data} is not an index or tars, from which videos are measured: pack it with python -m "
            "data.pack --media videos, or name its index"
        )


def measure_set_of_videos(
    config: EvaluateConfig,
    tokenizer: Tokenizer,
    transform: VideoConfig,
    lpips: LPIPS | None,
    network: FeatureNetwork | None,
    ranks: Ranks,
    add: Callable[..., None],
) -> None:
    """Measure `config.data`: figures and conditions go to `add`; rank 0 writes videos and pictures."""
    rows, tally = min(config.batch_size, config.samples or config.batch_size, count_of(config.data)), Tally()
    hashed = SampleHash(ranks.device)
    sets = ClipSets(network, ranks.device, config.kept) if network is not None else None
    options: dict[str, Any] = {"batch_size": config.batch_size, "threads": config.threads, "limit": config.samples}
    options |= {"rank": ranks.rank, "world_size": ranks.world_size, "allow_left_out": config.allow_left_out}
    batches: Any = every_picture(config.data, transform, tally=tally, **options)
    with Progress("evaluate tokenizer", None, unit="videos", enabled=ranks.rank == 0) as bar:
        how: dict[str, Any] = {"device": ranks.device, "total": ranks.sum, "rows": rows, "hashed": hashed}
        figures = measure_videos(tokenizer, _counted(batches, bar.advance), lpips, sets=sets, **how)
    if lost := settle(tally, ranks, config.allow_left_out, of="videos"):
        add({}, left_out=lost)
    if not figures["samples"]:
        raise UserError(f"data={config.data} holds no video that can be read: give another set")
    lpips_of = f"{config.lpips_net}, version 0.1" if lpips is not None else "not measured"
    add(
        figures,
        data=brief_of(config.data),
        data_hash=hashed.result(ranks.sum),
        samples=figures["samples"],
        frames=transform.frames,
        transform=transform.to_dict(),
        lpips=lpips_of,
        metrics=definitions(names(transform, lpips is not None)),
    )
    if sets is not None and network is not None:
        add(sets.distances(ranks), features={**network.about, **METHOD, "kept": config.kept})
    if ranks.rank == 0 and (config.videos or config.pictures):
        folder = Path(config.videos) if config.videos else None
        picture = Path(config.pictures) if config.pictures else Path(str(config.videos)) / "strips.png"
        save_videos(folder, picture, tokenizer, config.data, config.picture_count)


def _counted(batches: Iterable[Any], advance: Callable[[int], None]) -> Iterator[VideoBatch]:
    for batch in batches:
        yield batch
        advance(len(batch.keys))
