"""Shards of small clips: a square that moves over grey noise, as animated WebP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.shards.writer import Sample, ShardWriter
from data.videos.shown import film


def clip(random: np.random.Generator, frames: int, side: int = 16) -> bytes:
    """A clip; consecutive frames differ."""
    x_CTHW = np.repeat(random.integers(0, 60, (1, 1, side, side), dtype=np.uint8), frames, 1)
    row, column = random.integers(0, side, 2)
    for frame in range(frames):
        x_CTHW[0, frame, (row + np.arange(4)[:, None]) % side, (column + frame + np.arange(4)) % side] = 255
    return film(x_CTHW, 8.0)


def write_videos(folder: Path, count: int = 12, frames: int = 7, seed: int = 0) -> str:
    """One shard of them; its index."""
    random, tars = np.random.default_rng(seed), ShardWriter(folder)
    tars.begin({"seed": seed}, ["index.json"])

    def samples() -> Iterator[Sample]:
        for number in range(count):
            yield f"{number:03d}", {"webp": clip(random, frames), "cls": b"0"}

    classes = [str(digit) for digit in range(10)]  # those of MNIST, with which a mixture has to agree
    records = [tars.write("videos-000000.tar", samples())]
    tars.finish({"index.json": tars.index(records, name="squares", classes=classes, kind="videos")})
    return str(folder / "index.json")
