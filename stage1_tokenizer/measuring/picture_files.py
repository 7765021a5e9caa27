"""Pictures outside shards: files in a folder, files by name, and the arrays of ADM's suite.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import glob
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from data.packing.sources.listing import EXTENSIONS, Listing
from data.pictures.config import TransformConfig
from data.pictures.decode import decode_picture, pixels_of
from data.shards.sample import DamagedSampleError
from data.shards.tally import Tally, extension_in
from launch.command.cli import UserError
from stage1_tokenizer.tokenizer.pil import transformed

MAX_PIXELS = 100_000_000
Size = tuple[int, int]
"""Height and width in pixels."""


class Files:
    """Picture files below a folder, by their paths relative to it."""

    def __init__(self, folder: Path, names: Sequence[str], *, complete: bool = False):
        """`complete`: none may be damaged, as they are the samples of a prior."""
        self.folder, self.names, self.complete = folder, list(names), complete
        self._size: Size | None = None

    @classmethod
    def below(cls, folder: Path, tally: Tally) -> Files:
        """All below a folder, sorted by path; of a folder of samples, the classes' pictures."""
        described = folder / "samples.json"
        if not described.exists():
            return cls(folder, [name for name, _ in Listing(folder, tally).samples])
        values = json.loads(described.read_text())
        if not values.get("complete"):
            raise UserError(f"{folder} holds no finished samples: run stage2_prior.sample there first, to its end")
        every = [(one["folder"], number) for one in values["classes"] for number in range(one["count"])]
        return cls(folder, [f"{place}/{number:05d}.png" for place, number in every], complete=True)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int, transform: TransformConfig | None) -> np.ndarray:
        """A picture's pixels_CHW, RGB of its own size, or prepared by `transform`; DamagedSampleError for no picture.

        Either way upright, of 16 bits the upper 8, transparent parts on a background, as in training.
        """
        path = self.folder / self.names[number]
        try:
            decoded_HWC = decode_picture(path.read_bytes(), transform or TransformConfig(), max_pixels=MAX_PIXELS)
        except (OSError, DamagedSampleError) as error:
            if self.complete:
                raise UserError(f"{path} can't be read ({error}): sample it again") from error
            raise DamagedSampleError(str(error).replace(str(path), "it")) from error
        if transform is not None:
            return transformed(decoded_HWC, transform).numpy()
        self._check_size(path, decoded_HWC.shape[:2])
        return decoded_HWC.transpose(2, 0, 1)

    def _check_size(self, path: Path, size: Sequence[int]) -> None:
        self._size = self._size or (size[0], size[1])
        if self._size != tuple(size):
            raise UserError(
                f"{path} has another size than the pictures before it, {shown(size)} instead of {shown(self._size)}: "
                f"bring all to one size"
            )


class Array:
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
        self.names = range(len(self))

    def __len__(self) -> int:
        return int(self._shape[0])

    def read(self, number: int, transform: TransformConfig | None) -> np.ndarray:
        """A picture's pixels_CHW, as they are or prepared by `transform`."""
        size = int(np.prod(self._shape[1:]))
        self._file.seek(self._start + number * size)
        pixels_HWC = np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape[1:])
        if transform is None:
            return pixels_HWC.transpose(2, 0, 1)
        image = Image.fromarray(pixels_HWC if pixels_HWC.shape[2] == 3 else pixels_HWC[:, :, 0])
        return transformed(pixels_of(image, transform), transform).numpy()


def finished(source: str, tally: Tally | None = None) -> Files | Array | None:
    """The pictures of a folder, of files (by a name or a pattern) or of an `.npz`; None for shards and their indexes.

    What is passed over in a folder goes into `tally`.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return Array(path)
    if path.is_dir():
        return Files.below(path, Tally() if tally is None else tally) if _has_pictures(path) else None
    names = [source] if path.is_file() else sorted(glob.glob(source, recursive=True))  # noqa: PTH207
    if names and all(extension_in(name) in EXTENSIONS["pictures"] for name in names):
        return Files(Path(), names)
    return None


def _has_pictures(folder: Path) -> bool:
    return (folder / "samples.json").exists() or bool(Listing(folder, Tally()).samples)


def shown(size: Sequence[int]) -> str:
    """Height and width as people write them, width first."""
    return f"{size[1]}x{size[0]}"
