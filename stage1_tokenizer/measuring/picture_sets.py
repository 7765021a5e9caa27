"""Sets of pictures to measure: an index of shards, a folder of picture files, or an `.npz` as in ADM's suite.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from data.pictures.batches import PictureBatch
from data.pictures.config import TransformConfig
from data.reading.stream import every_sample
from launch.command.cli import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def every_picture(
    source: str, transform: TransformConfig, *, batch_size: int, rank: int = 0, world_size: int = 1, **options: Any
) -> Iterator[PictureBatch]:
    """Each picture of rank q's contiguous slice of a set once, uint8; those of an index are prepared by `transform`.

    Folders and `.npz` files (arr_0, uint8 NHWC) are finished pictures of one size. `options`: `threads` and `limit`
    (that many, evenly spaced) of data.reading.stream.every_sample. UserError for an empty source or another kind of
    file.
    """
    pictures = _finished(source)
    if pictures is None:
        return every_sample(source, transform, batch_size=batch_size, rank=rank, world_size=world_size, **options)
    numbers = np.arange(len(pictures))
    limit = options.get("limit")
    if limit is not None and limit < len(numbers):
        numbers = numbers[:limit] * len(pictures) // limit
    numbers = numbers[len(numbers) * rank // world_size : len(numbers) * (rank + 1) // world_size]
    return _batches(pictures, numbers, batch_size)


def _batches(pictures: _Files | _Array, numbers: np.ndarray, batch_size: int) -> Iterator[PictureBatch]:
    for step, first in enumerate(range(0, len(numbers), batch_size)):
        chosen = numbers[first : first + batch_size].tolist()
        pixels_BHWC, keys = pictures.read(chosen)
        pixels_BCHW = torch.from_numpy(np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2)))
        yield PictureBatch(step, pixels_BCHW, torch.full((len(keys),), -1), keys)


def filled(pixels_BCHW: Tensor, rows: int) -> Tensor:
    """A batch repeated up to `rows` rows; larger ones stay as they are.

    A network's last digits depend on the batch size, not on the other pictures in it. With full batches only, figures
    are the same on any number of ranks.
    """
    count = len(pixels_BCHW)
    return pixels_BCHW if count >= rows else pixels_BCHW[torch.arange(rows) % count]


def side_of(source: str) -> int | None:
    """Side in pixels of the pictures in a folder or `.npz`; None for an index, whose transform sets it."""
    pictures = _finished(source)
    return None if pictures is None else int(pictures.read([0])[0].shape[1])


def _finished(source: str) -> _Files | _Array | None:
    """The pictures of a folder or `.npz`; None for an index."""
    path = Path(source)
    if path.is_dir():
        return _Files(path)
    return _Array(path) if path.suffix == ".npz" else None


class _Files:
    """Picture files under a folder, sorted by path; for samples, the classes' pictures."""

    def __init__(self, folder: Path):
        self._folder = folder
        described = folder / "samples.json"
        if described.exists():
            values = json.loads(described.read_text())
            if not values.get("complete"):
                raise UserError(f"{folder} holds no finished samples: run stage2_prior.sample there first, to its end")
            every = [(one["folder"], number) for one in values["classes"] for number in range(one["count"])]
            self._files = [folder / place / f"{number:05d}.png" for place, number in every]
        else:
            self._files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not self._files:
            raise UserError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}): give another folder")
        self._size: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def read(self, chosen: Sequence[int]) -> tuple[np.ndarray, list[str]]:
        """pixels_BHWC as RGB, and their names."""
        from PIL import Image

        rows = []
        for number in chosen:
            try:
                with Image.open(self._files[number]) as image:
                    rows.append(np.asarray(image.convert("RGB")))
            except OSError as error:
                raise UserError(f"{self._files[number]} can't be read ({error}): repair or remove it") from error
            self._size = self._size or rows[-1].shape
            if rows[-1].shape != self._size:
                raise UserError(
                    f"{self._files[number]} has another size than the pictures before it: resize all to one size"
                )
        return np.stack(rows), [str(self._files[number].relative_to(self._folder)) for number in chosen]


class _Array:
    """arr_0 of an `.npz`, read in pieces, as it may be larger than memory."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
            self._file: IO[bytes] = self._archive.open("arr_0.npy")
            version = np.lib.format.read_magic(self._file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            self._shape, fortran, kind = read(self._file)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not an .npz with pictures in arr_0 ({error}): give another file") from error
        self._start = self._file.tell()
        if fortran or kind != np.uint8 or len(self._shape) != 4 or self._shape[3] not in (1, 3) or not self._shape[0]:
            raise UserError(f"arr_0 of {path} is {kind} {self._shape}: it must be uint8 (N, H, W, 1 or 3), N above 0")

    def __len__(self) -> int:
        return int(self._shape[0])

    def read(self, chosen: Sequence[int]) -> tuple[np.ndarray, list[str]]:
        """pixels_BHWC, and their numbers."""
        size = int(np.prod(self._shape[1:]))
        rows = []
        for number in chosen:
            self._file.seek(self._start + number * size)
            rows.append(np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape[1:]))
        return np.stack(rows), [str(number) for number in chosen]


class PictureHash:
    """A hash of a set of pictures by their pixels: the same for any order, container and number of ranks.

    The sum of the single pictures' hashes, in 32-bit words. Grey pictures are hashed as RGB.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._sum_8 = np.zeros(8, np.int64)

    def add(self, pixels_BCHW: Tensor) -> None:
        """Add uint8 pictures."""
        for pixels_HWC in pixels_BCHW.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().contiguous().numpy():
            digest = hashlib.blake2b(pixels_HWC, digest_size=32, person=str(pixels_HWC.shape[0]).encode()).digest()
            self._sum_8 += np.frombuffer(digest, "<u4")

    def result(self, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> str:
        """The hash over all ranks, hexadecimal; every rank must call it."""
        sum_8 = total(torch.from_numpy(self._sum_8).to(self._device)).cpu().numpy() % 2**32
        return sum_8.astype("<u4").tobytes().hex()
