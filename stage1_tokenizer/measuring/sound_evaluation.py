"""The part of an evaluation that is for sounds: which clips are measured, and under which conditions."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data.shards.tally import Tally
from data.sounds.batches import SoundBatch
from data.sounds.config import SoundConfig
from launch.command.cli import UserError
from launch.command.progress import Progress
from launch.ranks.joined import Ranks
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.measuring.picture_files import finished
from stage1_tokenizer.measuring.picture_sets import SampleHash, brief_of, count_of, every_picture
from stage1_tokenizer.measuring.references import settle
from stage1_tokenizer.measuring.sound_metrics import definitions
from stage1_tokenizer.measuring.sound_scores import levels, measure_sounds
from stage1_tokenizer.measuring.sounds_shown import save_sounds
from stage1_tokenizer.tokenizer.model import Tokenizer


def check_sounds(config: EvaluateConfig) -> None:
    """Raise UserError for settings that are for pictures, and for sounds that aren't in shards."""
    for name in ("reference", "save_reference"):
        if getattr(config, name):
            raise UserError(f"{name} is not supported with sounds, which have no distances between sets: remove it")
    if config.perturb_share:
        raise UserError(
            f"perturb_share={config.perturb_share:g} is not supported with sounds, which have no distances between "
            "sets: remove it"
        )
    if Path(config.data).is_dir() or finished(config.data) is not None:
        raise UserError(
            f"data={config.data} is not an index or tars, from which sounds are measured: pack it with python -m "
            "data.pack, or name its index"
        )


def measure_set_of_sounds(
    config: EvaluateConfig, tokenizer: Tokenizer, transform: SoundConfig, ranks: Ranks, add: Callable[..., None]
) -> None:
    """Measure `config.data`: figures and conditions go to `add`; rank 0 writes sounds and pictures."""
    rows, tally = min(config.batch_size, config.samples or config.batch_size, count_of(config.data)), Tally()
    hashed = SampleHash(ranks.device)
    options: dict[str, Any] = {"batch_size": config.batch_size, "threads": config.threads, "limit": config.samples}
    options |= {"rank": ranks.rank, "world_size": ranks.world_size, "allow_left_out": config.allow_left_out}
    batches = every_picture(config.data, transform, tally=tally, **options)
    with Progress("evaluate tokenizer", None, unit="sounds", enabled=ranks.rank == 0) as bar:
        figures = measure_sounds(
            tokenizer,
            _counted(batches, bar.advance),
            device=ranks.device,
            total=ranks.sum,
            by_books=True,
            rows=rows,
            hashed=hashed,
        )
    if lost := settle(tally, ranks, config.allow_left_out, of="sounds"):
        add({}, left_out=lost)
    if not figures["samples"]:
        raise UserError(f"data={config.data} holds no sound that can be read: give another set")
    add(
        figures,
        data=brief_of(config.data),
        data_hash=hashed.result(ranks.sum),
        samples=figures["samples"],
        transform=transform.to_dict(),
        metrics=definitions(transform.sample_rate),
    )
    if ranks.rank == 0 and (config.sounds or config.pictures):
        folder = Path(config.sounds) if config.sounds else None
        picture = Path(config.pictures) if config.pictures else Path(str(config.sounds)) / "spectrograms.png"
        books = tuple(levels(tokenizer)[:-1])
        save_sounds(folder, picture, tokenizer, config.data, config.picture_count, books)


def _counted(batches: Iterable[Any], advance: Callable[[int], None]) -> Iterator[SoundBatch]:
    for batch in batches:
        yield batch
        advance(len(batch.keys))
