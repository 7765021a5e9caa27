"""What `data.pack` reads. To add a kind of source, add its file and its entry in `SOURCES`.

A source knows how many samples it has and which split and class each belongs to; it reads one by its number, in any
order and from several processes.
"""

from collections.abc import Mapping
from typing import Any

from data.packing.sources.arrays import ArraySource, CifarSource, IdxSource
from data.packing.sources.base import Source
from data.packing.sources.celeba import CelebASource
from data.packing.sources.composed import CaptionedDigitsSource
from data.packing.sources.films import KineticsSource, Ucf101Source
from data.packing.sources.folders import FolderSource
from data.packing.sources.frames import BairSource, FramesSource
from data.packing.sources.imagenet import ImageNetSource
from data.packing.sources.moving import MovingDigitsSource
from data.packing.sources.sounds import Esc50Source, LibriSpeechSource, LJSpeechSource, VctkSource
from data.packing.sources.tables import ParquetSource
from data.packing.sources.tars import TarSource
from data.packing.sources.texts import TextSource
from launch.command.cli import UserError

SOURCES: dict[str, type[Any]] = {
    "folder": FolderSource,
    "imagenet": ImageNetSource,
    "celeba": CelebASource,
    "idx": IdxSource,
    "cifar": CifarSource,
    "array": ArraySource,
    "parquet": ParquetSource,
    "tars": TarSource,
    "librispeech": LibriSpeechSource,
    "ljspeech": LJSpeechSource,
    "vctk": VctkSource,
    "esc50": Esc50Source,
    "ucf101": Ucf101Source,
    "kinetics": KineticsSource,
    "bair": BairSource,
    "frames": FramesSource,
    "moving_digits": MovingDigitsSource,
    "captioned_digits": CaptionedDigitsSource,
    "texts": TextSource,
}
"""`--kind` → class; its constructor takes the path and the class's own `options`."""


def open_source(kind: str, path: str, options: Mapping[str, Any] | None = None) -> Source:
    """The source of `kind` at a path; `options` are that kind's own. UserError if it holds no samples."""
    source: Source = SOURCES[kind](path, **(options or {}))
    if not len(source):
        why = f" ({'; '.join(lines[:3])})" if (lines := source.tally.lines()[1:]) else ""
        raise UserError(f"source={path} holds no samples of kind={kind}{why}: check the path and the kind")
    return source
