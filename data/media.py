"""Kinds of samples: which room decodes, checks, shows and packs each. To add one, add its room and its entry here.

An index names the kind of its samples (`ShardIndex.kind`), a configuration that of its transform (`transform.kind`).
Order and reading know no kind. Handlers are named, and imported on first use: settings and `--help` need no torch.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from data.pictures.config import TransformConfig
from data.shards.signature import PICTURES, SOUNDS, TEXTS, VIDEOS
from data.sounds.config import SoundConfig
from data.texts.config import TextConfig
from data.videos.config import VideoConfig
from launch.command.cli import UserError

Transform = TransformConfig | SoundConfig | VideoConfig | TextConfig
"""Settings of `data.transform`, of any kind: options and files choose one by its `kind` (launch.command.kinds)."""


@dataclass(frozen=True)
class Media:
    """What handles one kind of sample. Each is a `module:name` for `handler`; empty: not supported."""

    members: tuple[str, ...]
    """Last parts of the extensions of the member that holds the sample."""
    transform: type[Transform] | None = None
    """Settings of `data.transform`; None: samples are read as they are."""
    decoder: str = ""
    """Class `(index, seed, **settings)`, those of `config.decoding`, a `data.reading.read_ahead.Decoder`: samples to
    rows of a batch."""
    check: str = ""
    """Function `(sample, max_size) → (content, note)`: raises DamagedSampleError unless all of the sample decodes.
    Equal contents are duplicates (None: never); `note` says what is odd about a usable sample."""
    thumbnail: str = ""
    """Function `(sample, side) → PIL image` of at most side×side pixels, for contact sheets."""
    mixes: tuple[str, ...] = ()
    """Other kinds that `data.mixture` may add. Then each batch is of one source: the step decides of which."""
    convert: str = ""
    """Function `(encoded, array, convert settings) → (extension, contents)`: what packing stores of a source's
    sample."""


KINDS: dict[str, Media] = {
    "pictures": Media(
        members=PICTURES,
        transform=TransformConfig,
        decoder="data.pictures.batches:PictureDecoder",
        check="data.pictures.inspection:check",
        thumbnail="data.pictures.inspection:thumbnail",
        convert="data.pictures.convert:convert",
    ),
    "codes": Media(members=("npy",), decoder="data.codes.batches:CodeDecoder", check="data.codes.batches:check"),
    "sounds": Media(
        members=SOUNDS,
        transform=SoundConfig,
        decoder="data.sounds.decoder:SoundDecoder",
        check="data.sounds.inspection:check",
        thumbnail="data.sounds.inspection:thumbnail",
        convert="data.sounds.convert:convert",
    ),
    "documents": Media(
        members=("json",), decoder="data.texts.documents:DocumentDecoder", check="data.texts.documents:check"
    ),
    "texts": Media(
        members=TEXTS,
        transform=TextConfig,
        decoder="data.texts.windows:decoder",
        check="data.texts.batches:check",
        convert="data.texts.convert:convert",
    ),
    "videos": Media(
        members=VIDEOS,
        transform=VideoConfig,
        decoder="data.videos.decoder:VideoDecoder",
        check="data.videos.inspection:check",
        thumbnail="data.videos.inspection:thumbnail",
        convert="data.videos.convert:convert",
        mixes=("pictures",),
    ),
}


def media_of(kind: str) -> Media:
    """What handles a kind of sample; UserError, naming the known ones, for an unknown kind."""
    if kind not in KINDS:
        raise UserError(f"kind={kind} is not a known kind of sample: choose one of {', '.join(KINDS)}")
    return KINDS[kind]


def handler(kind: str, role: str) -> Any:
    """What does a kind's `decoder`, `check`, `thumbnail` or `convert`; UserError if the kind has none."""
    name = getattr(media_of(kind), role)
    if not name:
        able = ", ".join(kind for kind, media in KINDS.items() if getattr(media, role))
        raise UserError(f"{role} is not supported with samples of kind={kind}: it is with {able}")
    return pkgutil.resolve_name(name)


def read_transform(values: Mapping[str, Any]) -> Transform:
    """The transform that its `to_dict` described; without `kind` (its default) it is of pictures.

    ValueError for an unknown kind or key.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"transform is {values!r}, not a dictionary of settings: was the file edited?")
    known = {kind: media.transform for kind, media in KINDS.items() if media.transform is not None}
    kind = values.get("kind", "pictures")
    if kind not in known:
        raise ValueError(f"transform.kind={kind} is not a known kind: choose one of {', '.join(known)}")
    unknown = sorted(set(values) - {field.name for field in fields(known[kind])})
    if unknown:
        raise ValueError(f"transform has unknown keys {', '.join(unknown)}: written by a newer version?")
    return known[kind](**values)
