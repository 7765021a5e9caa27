"""A source of samples → WebDataset shards with their index.

    python -m data.pack SOURCE OUT --kind folder|imagenet|celeba|idx|cifar|array|parquet|tars [options]
    python -m data.pack SOURCE OUT --kind librispeech|ljspeech|vctk|esc50 [options]
    python -m data.pack SOURCE OUT --kind ucf101|kinetics|bair|frames|moving_digits [options]
    python -m data.pack SOURCE OUT --kind folder|parquet|tars --media sounds|videos [options]
    python -m data.pack SOURCE OUT --kind captioned_digits|texts [options]

Each split becomes `OUT/<split>.json` and `OUT/<split>-000000.tar`, …. The same command resumes a killed pack, to the
same bytes.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data.packing.counts import listed, packed
from data.packing.indexes import publish, refuse_overlap, summary
from data.packing.sources import SOURCES, open_source
from data.packing.splits import chosen_splits, cut_by_bytes, cut_by_count
from data.packing.workers import Job, pack_shards, shard_sizes
from data.pictures.convert import ConvertConfig
from data.shards.bucket import set_writer
from data.shards.locations import is_remote
from data.shards.tally import ALLOWED
from data.shards.writer import ShardRecord
from data.sounds.config import SoundConvertConfig
from data.texts.config import TextConvertConfig
from data.videos.config import VideoConvertConfig
from launch.command.checks import check
from launch.command.cli import UserError, parse, run
from launch.command.cores import cores
from launch.command.progress import Progress
from launch.files.outputs import try_folder

FREE = ("out", "processes", "allow_left_out", "overwrite")
"""Settings that may change when a pack is resumed."""

CONVERSIONS = {"pictures": "convert", "sounds": "sound", "videos": "video", "texts": "text"}
"""The block of settings that says how samples of a kind are converted."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Pack a source of samples into WebDataset shards with their index."""

    source: str
    """Folder, file or pattern to read; the first word of the command line."""
    out: str
    """Folder for shards and indexes; the second word of the command line."""
    kind: Literal[tuple(SOURCES)]  # type: ignore[valid-type]
    """Kind of the source; see the list at the top of --help."""
    media: Literal["pictures", "sounds", "videos", "texts"] | None = None
    """folder, parquet, tars: what the samples are; none: pictures, or what an index says."""
    name: str = ""
    """Name of the set; none: the last part of OUT."""
    licence: str = ""
    """Licence of the samples, noted in the index."""
    held_out: float = 0.0
    """Share of the `train` split that becomes the split `held_out`, of each class alike."""
    samples_per_shard: int | None = None
    """Samples in a shard. None: 1000, unless megabytes_per_shard is set."""
    megabytes_per_shard: float | None = None
    """Size of a shard in MB of 10^6 bytes: a limit where original bytes are kept, else an estimate from a trial."""
    shuffle: bool = True
    """Shuffle the samples of a split over its shards. Training shuffles only within windows, so a set sorted by class
    needs this."""
    seed: int = 0
    """Seed of the shuffle and of the choice of held-out samples."""
    label_attribute: str | None = None
    """celeba: the attribute that is the class, such as Smiling."""
    image_column: str | None = None
    """parquet: the column of pictures; none: the first that holds pictures."""
    audio_column: str | None = None
    """parquet: the column of sounds; with media=sounds, none is the first that holds sounds."""
    video_column: str | None = None
    """parquet: the column of videos; with media=videos, none is the first that holds videos."""
    label_column: str | None = None
    """parquet: the column of classes; none: `label`, where there is one."""
    caption_column: str | None = None
    """parquet: the column of captions; none: no captions. folder: that of `metadata.*`; none: `text`, else `caption`
    (of sounds also `transcription`, `sentence`). Of several captions of a picture the first is kept."""
    splits: dict[str, str] = field(default_factory=dict)
    """folder, parquet, array, tars: what a name (or a pattern with *) means that is no known split's, such as
    {"extra": "train"}; "" leaves it out; {"*": "train"} says that no name is a split's."""
    picture: list[str] | None = None
    """tars: extensions of the members that are the samples, the preferred one first, such as jpg,png."""
    keys: Literal["first_dot", "last_dot"] | None = None
    """tars: where a member's name ends and its extension begins: at the first dot (the default) or the last one."""
    captions: str | None = None
    """tars: a JSON file with the captions of samples by their keys, {"1f600": "grinning face"}."""
    clips: int | None = None
    """moving_digits: clips of the split train; none: one of each digit."""
    count: int | None = None
    """captioned_digits: pictures of the split train; none: as many as there are digits."""
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    """How each picture is converted."""
    sound: SoundConvertConfig = field(default_factory=SoundConvertConfig)
    """How each sound is converted."""
    video: VideoConvertConfig = field(default_factory=VideoConvertConfig)
    """How each video is converted."""
    text: TextConvertConfig = field(default_factory=TextConvertConfig)
    """texts: how each text is read and cut."""
    processes: int | None = None
    """Processes that read and write; none: one for each core."""
    allow_left_out: float = ALLOWED
    """Share of the samples, captions or labels that may be left out; above 0.01 there is a warning."""
    overwrite: bool = False
    """Replace an existing set."""

    def __post_init__(self) -> None:
        check("held_out", self.held_out, 0 <= self.held_out < 1, "the share that is held out, such as 0.1")
        if self.samples_per_shard is not None and self.megabytes_per_shard is not None:
            raise ValueError("samples_per_shard and megabytes_per_shard are both set: remove one of them")
        for name in ("samples_per_shard", "megabytes_per_shard", "processes", "clips", "count"):
            value = getattr(self, name)
            check(name, value, value is None or value > 0, "a number above 0, or to null")

        if self.media == "texts" and self.kind != "tars":
            raise ValueError(f"media=texts is not an option of kind={self.kind}: leave it out and set kind to texts")
        check("allow_left_out", self.allow_left_out, 0 <= self.allow_left_out <= 1, "a share from 0 to 1, such as 0.2")
        for name in sorted({name for source in SOURCES.values() for name in source.options}):
            kinds = [kind for kind, source in SOURCES.items() if name in source.options]
            if getattr(self, name) not in (None, {}, TextConvertConfig()) and self.kind not in kinds:
                raise ValueError(
                    f"{name} is an option of kind={', '.join(kinds)}, not of kind={self.kind}: leave it out"
                )


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, pack, and print the summary."""
    kinds = "; ".join(f"{kind}: {source.about}" for kind, source in SOURCES.items())
    about = f"{PackConfig.__doc__} Kinds of source: {kinds}."
    prog = "python -m data.pack SOURCE OUT"
    pack(parse(PackConfig, argv, prog=prog, positional=("source", "out"), description=about))


def pack(config: PackConfig, *, show_progress: bool = True) -> dict[str, list[ShardRecord]]:
    """Pack, and return the shards of each split. UserError for what the user can correct."""
    try_folder("out", config.out)
    shards, kind = set_writer(config.out), SOURCES[config.kind]
    if not config.overwrite:
        # Listing a large source takes long: refuse first what can be refused without it.
        shards.refuse_finished(f"{name}.json" for name in kind.certain_splits(config.source, config.splits))
    source = open_source(config.kind, config.source, {name: getattr(config, name) for name in kind.options})
    refuse_overlap(source, config.source, config.out)
    convert = conversion(source, config)
    splits = chosen_splits(source, config.held_out, config.seed, shuffle=config.shuffle)
    listed(source, splits).settle(config.allow_left_out)
    shards.begin(plan(source, config), [f"{name}.json" for name in splits], overwrite=config.overwrite)
    jobs = [job for name, numbers in splits.items() for job in jobs_of(source, name, numbers, config)]
    total = sum(len(job.numbers) for job in jobs)
    done = {job.shard: record for job in jobs if (record := shards.finished(job.shard)) is not None}
    kept = sum(len(job.numbers) for job in jobs if job.shard in done)
    if kept and show_progress:
        print(f"resuming {config.out}: {len(done)} of {len(jobs)} shards are finished", file=sys.stderr)
    left = [job for job in jobs if job.shard not in done]
    processes = config.processes or (16 if source.remote else cores())
    with Progress("pack", total, unit="samples", start=kept, enabled=show_progress) as bar:
        for job, record in pack_shards(source, left, str(shards.folder), convert, processes):
            shards.keep(record)
            done[job.shard] = record
            bar.advance(len(job.numbers))
    written = {name: [done[job.shard] for job in jobs if job.split == name] for name in splits}
    tally = packed(source, splits, written)
    if show_progress:
        print(*tally.lines(), sep="\n", file=sys.stderr)
    warnings = tally.settle(config.allow_left_out)
    about = {"kind": source.media, "licence": config.licence}
    publish(shards, source, written, config.name, source_kind=config.kind, **about)
    if show_progress:
        print(*warnings, summary(written, config.out), sep="\n", file=sys.stderr)
    return written


def plan(source: Any, config: PackConfig) -> dict[str, Any]:
    """What must be the same when a pack is resumed."""
    same = {name: value for name, value in asdict(config).items() if name not in FREE}
    for name in ("splits", "picture", "keys", "media", "audio_column", "video_column", "captions", "clips", "count"):
        if not same[name]:
            del same[name]  # as before this setting was there
    for name, default in (
        ("sound", SoundConvertConfig()),
        ("video", VideoConvertConfig()),
        ("text", TextConvertConfig()),
    ):
        if getattr(config, name) == default:
            del same[name]
    return {**same, "source": _absolute(config.source), "samples": len(source), "files": source.fingerprint()}


def conversion(source: Any, config: PackConfig) -> Any:
    """How the source's samples are converted. UserError where another kind's settings are given."""
    used = CONVERSIONS[source.media]
    for name in CONVERSIONS.values():
        if name != used and getattr(config, name) != type(getattr(config, name))():
            raise UserError(
                f"{name} has settings, but source={config.source} holds {source.media}: set those of {used}"
            )
    return getattr(config, used)


def _absolute(source: str) -> str:
    return source if is_remote(source) else os.path.abspath(source)  # noqa: PTH100


def jobs_of(source: Any, name: str, numbers: Any, config: PackConfig) -> list[Job]:
    """The shards of a split."""
    if config.megabytes_per_shard is None:
        parts = cut_by_count(len(numbers), config.samples_per_shard or 1000)
    else:
        sizes = shard_sizes(source, numbers, conversion(source, config))
        parts = cut_by_bytes(sizes, int(config.megabytes_per_shard * 1e6))
    return [Job(name, f"{name}-{i:06d}.tar", numbers[part.start : part.stop]) for i, part in enumerate(parts)]


if __name__ == "__main__":
    run(main)
