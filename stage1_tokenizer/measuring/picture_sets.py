"""Sets of pictures to measure: shards, a folder of picture files, or an `.npz` as in ADM's suite.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.media import Transform
from data.pictures.batches import PictureBatch
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from data.shards.identity import Identity
from data.shards.index import ShardIndex
from data.shards.loading import load_index
from data.shards.quarantine import quarantined
from data.shards.sample import DamagedSampleError
from data.shards.tally import ALLOWED, Tally
from launch.command.cli import UserError
from launch.files.places import place_name
from stage1_tokenizer.measuring.picture_files import Array, Files, Size, finished


def every_picture(
    source: ShardIndex | str,
    transform: Transform,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    prepare: bool = False,
    tally: Tally | None = None,
    allow_left_out: float = ALLOWED,
    limit: int | None = None,
    threads: int = 2,
) -> Iterator[PictureBatch]:
    """Each picture of rank q's contiguous slice of a set once, uint8; of `limit` that many, evenly spaced.

    Those of shards (an index, tars) are prepared by `transform`. Folders, picture files and `.npz` files (arr_0, uint8
    NHWC) are finished pictures of one size, unless `prepare` is set. What is taken and left out goes into `tally`.
    UserError for an empty source or another kind of file.
    """
    tally = Tally() if tally is None else tally
    pictures = None if isinstance(source, ShardIndex) else finished(source, tally if rank == 0 else None)
    index = None if pictures is not None else shards_of(source)
    total = len(pictures if index is None else index)  # type: ignore[arg-type]
    if not total:
        raise UserError(f"{source} holds no {transform.kind}: give another set")
    numbers = np.arange(total)
    if limit is not None and limit < total:
        numbers = numbers[:limit] * total // limit
    numbers = numbers[len(numbers) * rank // world_size : len(numbers) * (rank + 1) // world_size]
    if index is None:
        assert pictures is not None
        assert isinstance(transform, TransformConfig)
        return _batches(pictures, numbers, batch_size, transform if prepare else None, tally)
    ranks: dict[str, int] = {"rank": rank, "world_size": world_size}
    options: dict[str, Any] = {"limit": limit, "threads": threads, "max_damaged": allow_left_out}
    batches = every_sample(index, transform, batch_size=batch_size, **ranks, **options)
    return _tallied(batches, index, numbers, tally, transform.kind)


def _batches(
    pictures: Files | Array, numbers: np.ndarray, batch_size: int, transform: TransformConfig | None, tally: Tally
) -> Iterator[PictureBatch]:
    for step, first in enumerate(range(0, len(numbers), batch_size)):
        rows, keys = [], []
        for number in numbers[first : first + batch_size].tolist():
            key = str(pictures.names[number])
            try:
                rows.append(pictures.read(number, transform))
            except DamagedSampleError as error:
                tally.left_out(str(error), key)
                continue
            keys.append(key)
        tally.took("pictures", len(keys))
        if keys:
            pixels_BCHW = torch.from_numpy(np.ascontiguousarray(np.stack(rows)))
            yield PictureBatch(step, pixels_BCHW, torch.full((len(keys),), -1), keys)


def _tallied(
    batches: Iterator[PictureBatch], index: ShardIndex, numbers: np.ndarray, tally: Tally, kind: str
) -> Iterator[PictureBatch]:
    taken, listed, reasons = 0, 0, quarantined([index])
    for batch in batches:
        taken += len(batch.keys)
        tally.took(kind, len(batch.keys))
        yield batch
    for shard, place in zip(*(part.tolist() for part in index.places(numbers)), strict=True) if any(reasons) else ():
        if place in reasons[shard]:
            listed += 1
            tally.ignored(f"in the quarantine list ({reasons[shard][place]})", f"{index.shards[shard].url} {place}")
    if lost := len(numbers) - taken - listed:
        tally.left_out("damaged, see the warnings above", index.name, of=kind, count=lost)


def filled(pixels_BCHW: Tensor, rows: int) -> Tensor:
    """A batch repeated up to `rows` rows; larger ones stay as they are.

    A network's last digits depend on the batch size, not on the other pictures in it. With full batches only, figures
    are the same on any number of ranks.
    """
    count = len(pixels_BCHW)
    return pixels_BCHW if count >= rows else pixels_BCHW[torch.arange(rows) % count]


def shards_of(source: ShardIndex | str) -> ShardIndex:
    """The index of a set of shards; UserError for anything else."""
    return source if isinstance(source, ShardIndex) else load_index(source)


def brief_of(source: str) -> dict[str, Any]:
    """What a result says a set is (JSON values), without its place."""
    return {"name": place_name(source)} if finished(source) is not None else Identity.of(load_index(source)).brief()


def classes_of(source: str) -> tuple[str, ...]:
    """Names of a set's classes, as far as they are known."""
    return () if finished(source) is not None else tuple(load_index(source).classes)


def size_of(source: str) -> Size | None:
    """Height and width of a set's first readable picture; None for shards, whose transform sets the size."""
    pictures = finished(source)
    for number in range(len(pictures)) if pictures is not None else ():
        try:
            _, height, width = pictures.read(number, None).shape  # type: ignore[union-attr]
        except DamagedSampleError:
            continue
        return height, width
    return None


def count_of(source: str) -> int:
    """Number of pictures of a set, damaged ones included."""
    pictures = finished(source)
    return len(load_index(source) if pictures is None else pictures)


class SampleHash:
    """A hash of a set of samples by their contents: the same for any order, container and number of ranks.

    The sum of the single samples' hashes, in 32-bit words.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._sum_8 = np.zeros(8, np.int64)

    def add_rows(self, rows: Iterable[Tensor]) -> None:
        """Add samples: the size of their first axis counts too."""
        for row in rows:
            array: Any = row.cpu().contiguous().numpy()
            digest = hashlib.blake2b(array, digest_size=32, person=str(array.shape[0]).encode()).digest()
            self._sum_8 += np.frombuffer(digest, "<u4")

    def result(self, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> str:
        """The hash over all ranks, hexadecimal; every rank must call it."""
        sum_8 = total(torch.from_numpy(self._sum_8).to(self._device)).cpu().numpy() % 2**32
        return sum_8.astype("<u4").tobytes().hex()


class PictureHash(SampleHash):
    """That of pictures, by their pixels. Grey pictures are hashed as RGB."""

    def add(self, pixels_BCHW: Tensor) -> None:
        """Add uint8 pictures."""
        self.add_rows(pixels_BCHW.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().contiguous())
