"""Sets of pictures to be measured: an index of shards, a folder of picture files, or an `.npz` as ADM's suite reads.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from data.pictures.batches import PictureBatch
from launch.command.cli import UserError

if TYPE_CHECKING:
    from data.pictures.config import TransformConfig
    from stage1_tokenizer.measuring.distances import Total

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def every_picture(
    source: str, transform: TransformConfig, *, batch_size: int, rank: int = 0, world_size: int = 1, **options: Any
) -> Iterator[PictureBatch]:
    """Each picture of a set once, rank q's contiguous slice: uint8, prepared by `transform` where it's an index.

    Folders and `.npz` files (arr_0, uint8 NHWC) are finished pictures of one size. `options`: `threads` and `limit` (so
    many, evenly spaced) of data.reading.stream.every_sample. UserError for a source that is none of the three, or is
    empty.
    """
    path = Path(source)
    if not path.is_dir() and path.suffix != ".npz":
        from data.reading.stream import every_sample

        return every_sample(source, transform, batch_size=batch_size, rank=rank, world_size=world_size, **options)
    pictures: _Files | _Array = _Files(path) if path.is_dir() else _Array(path)
    wanted = np.arange(len(pictures))
    limit = options.get("limit")
    if limit is not None and limit < len(wanted):
        wanted = wanted[:limit] * len(pictures) // limit
    wanted = wanted[len(wanted) * rank // world_size : len(wanted) * (rank + 1) // world_size]
    return _batches(pictures, wanted, batch_size)


def _batches(pictures: _Files | _Array, wanted: np.ndarray, batch_size: int) -> Iterator[PictureBatch]:
    for step, first in enumerate(range(0, len(wanted), batch_size)):
        chosen = wanted[first : first + batch_size].tolist()
        pixels_BHWC, keys = pictures.read(chosen)
        pixels_BCHW = torch.from_numpy(np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2)))
        yield PictureBatch(step, pixels_BCHW, torch.full((len(keys),), -1), keys)


def filled(pixels_BCHW: Tensor, rows: int) -> Tensor:
    """A batch of so many rows (or as many as it has), the pictures again and again.

    Networks' last digits depend on the size of a batch, not on what else is in it: with full batches alone, figures are
    the same on any number of ranks.
    """
    count = len(pixels_BCHW)
    return pixels_BCHW if count >= rows else pixels_BCHW[torch.arange(rows) % count]


def side_of(source: str) -> int | None:
    """Pixels of a side of the pictures in a folder or `.npz`; None for an index, whose transform says it."""
    path = Path(source)
    if path.is_dir() or path.suffix == ".npz":
        return int((_Files(path) if path.is_dir() else _Array(path)).read([0])[0].shape[1])
    return None


class _Files:
    """Picture files under a folder, by their paths' order; of stage2_prior.sample's the classes' pictures."""

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
            raise UserError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}): name another folder")
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
                raise UserError(f"{self._files[number]} can't be read ({error}): mend or remove it") from error
            self._size = self._size or rows[-1].shape
            if rows[-1].shape != self._size:
                raise UserError(f"{self._files[number]} has another size than the pictures before it: bring all to one")
        return np.stack(rows), [str(self._files[number].relative_to(self._folder)) for number in chosen]


class _Array:
    """arr_0 of an `.npz`, read in pieces: it may be larger than the memory."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
            self._file: IO[bytes] = self._archive.open("arr_0.npy")
            version = np.lib.format.read_magic(self._file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            self._shape, fortran, kind = read(self._file)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no .npz with pictures in arr_0 ({error}): name another file") from error
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
    """A hash of a set of pictures, of their pixels alone: the same in any order, container and number of ranks.

    The sum of the pictures' own hashes, in 32-bit words; grey pictures count as RGB ones.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._sum_8 = np.zeros(8, np.int64)

    def add(self, pixels_BCHW: Tensor) -> None:
        """Add uint8 pictures."""
        for pixels_HWC in pixels_BCHW.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().contiguous().numpy():
            digest = hashlib.blake2b(pixels_HWC, digest_size=32, person=str(pixels_HWC.shape[0]).encode()).digest()
            self._sum_8 += np.frombuffer(digest, "<u4")

    def result(self, total: Total = lambda tensor: tensor) -> str:
        """The hash over all ranks, hexadecimal; every rank must ask."""
        sum_8 = total(torch.from_numpy(self._sum_8).to(self._device)).cpu().numpy() % 2**32
        return sum_8.astype("<u4").tobytes().hex()
