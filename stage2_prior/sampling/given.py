"""Given pictures, sounds or videos, from files, folders and indexes, as a tokenizer takes them.

Shapes: B samples, C channels, then a sample's own axes ("…").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.media import Transform
from data.reading.stream import every_sample
from data.shards.loading import load_index, names_tars
from launch.command.cli import UserError, reason
from stage2_prior.codes.kinds import SampleKind, sample_kind


@dataclass(frozen=True)
class GivenSamples:
    """Some of the given samples."""

    x: Tensor
    """x_BC…, float in [-1, 1]."""
    names: list[str]
    """Files, or keys of an index."""
    captions: list[str]
    """The texts that an index has of them, "" for none."""


def given_samples(places: Sequence[str], transform: Transform, limit: int, batch_size: int) -> Iterator[GivenSamples]:
    """The samples of all places in their order, `limit` at most; of an index evenly spaced.

    UserError for a place without any, and for a file that can't be read.
    """
    kind, left = sample_kind(transform.kind), limit
    for place in places:
        if left <= 0:
            break
        if place.endswith(".json") or names_tars(place):
            batches = _of_index(place, transform, kind, left, batch_size)
        else:
            batches = _of_files(place, transform, kind, left, batch_size)
        for batch in batches:
            left -= len(batch.names)
            yield batch


def _of_index(
    place: str, transform: Transform, kind: SampleKind, limit: int, batch_size: int
) -> Iterator[GivenSamples]:
    index = load_index(place)
    if index.kind != kind.name:
        raise UserError(f"files={place} holds {index.kind}, but the tokenizer is of {kind.name}: give {kind.name}")
    for batch in every_sample(index, transform, batch_size=batch_size, limit=limit):
        captions = list(batch.captions) or [""] * len(batch.keys)
        yield GivenSamples(kind.input(batch, torch.device("cpu")), list(batch.keys), captions)


def _of_files(
    place: str, transform: Transform, kind: SampleKind, limit: int, batch_size: int
) -> Iterator[GivenSamples]:
    path = Path(place)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower().lstrip(".") in kind.extensions and file.is_file()][:limit]
    if not files:
        raise UserError(
            f"files={place} is no {kind.name[:-1]} and holds none, which the tokenizer is of: give a file, a folder or "
            "an index"
        )
    for start in range(0, len(files), batch_size):
        some = files[start : start + batch_size]
        x = torch.cat([_read(file, transform, kind) for file in some])
        yield GivenSamples(x, [str(file) for file in some], [""] * len(some))


def _read(file: Path, transform: Transform, kind: SampleKind) -> Tensor:
    try:
        return kind.read(file.read_bytes(), transform)[0]
    except Exception as error:  # PIL raises all kinds of exceptions on damaged input
        raise UserError(f"files={file} can't be used ({reason(error)}): leave it out") from error
