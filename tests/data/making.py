"""Small shards for the tests: pictures whose pixels tell which sample they are."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from data.shards.sample import Sample
from data.shards.scanning import build_index

Files = dict[str, bytes]


def write_tar(path: Path, samples: Iterable[tuple[str, Files]]) -> Path:
    """A tar of (key, contents by extension)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, files in samples:
            for extension, contents in files.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
    return path


def jpeg(number: int, height: int = 24, width: int = 32) -> bytes:
    """A picture with a value and a gradient of its own."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height)))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=90)


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    """Pixels in one of PIL's formats."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def picture_set(folder: Path, sizes: list[int], classes: int = 3, name: str = "set") -> Path:
    """Shards of `sizes` samples `sSS-NNNN` with labels; the path of their index."""
    tars, number = [], 0
    for shard, size in enumerate(sizes):
        samples = []
        for i in range(size):
            samples.append((f"s{shard:02d}-{i:04d}", {"jpg": jpeg(number), "cls": str(number % classes).encode()}))
            number += 1
        tars.append(write_tar(folder / f"{name}-{shard:02d}.tar", samples))
    index = build_index(tars, base=folder, name=name, classes=[f"class {i}" for i in range(classes)])
    index.save(folder / f"{name}.json")
    return folder / f"{name}.json"


def code_set(folder: Path, sizes: list[int], grid: tuple[int, int] = (2, 3), codebook_size: int = 50) -> Path:
    """Code shards; sample n holds codes (n + position) mod codebook_size."""
    tars, number = [], 0
    for shard, size in enumerate(sizes):
        samples = []
        for i in range(size):
            codes = (number + np.arange(grid[0] * grid[1])).reshape(grid) % codebook_size
            buffer = io.BytesIO()
            np.save(buffer, codes.astype(np.uint16))
            samples.append((f"c{shard:02d}-{i:04d}", {"codes.npy": buffer.getvalue(), "cls": b"1"}))
            number += 1
        tars.append(write_tar(folder / f"codes-{shard:02d}.tar", samples))
    meta = {"tokenizer": "none", "grid": list(grid), "codebook_size": codebook_size}
    index = build_index(tars, base=folder, kind="codes", classes=["a", "b"], meta=meta)
    index.save(folder / "codes.json")
    return folder / "codes.json"


def sample(**files: bytes) -> Sample:
    return Sample("k", {extension.replace("_", "."): memoryview(contents) for extension, contents in files.items()})


def bomb(side: int) -> bytes:
    """A PNG header of side × side pixels with next to nothing behind it."""

    def chunk(kind: bytes, contents: bytes) -> bytes:
        return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
