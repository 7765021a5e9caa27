"""Reads a set as training does, for tests that the order and the pixels don't depend on where the shards lie."""

from __future__ import annotations

from itertools import islice
from typing import Any

from data.config import DataConfig
from data.pictures.config import TransformConfig
from data.reading.stream import Stream

SMALL = TransformConfig(size=8)


def batches(index: str, start: int = 0, count: int = 14, **values: Any) -> list[tuple[list[str], bytes]]:
    """Two epochs and more of a set of 48 pictures: keys and pixels of each batch."""
    values = {"batch_size": 8, "lanes": 4, "window": 6, "retry_pause": 0.001, "stall_seconds": 10.0, **values}
    with Stream(DataConfig(index=index, transform=SMALL, **values), seed=3) as stream:
        return [(b.keys, b.pixels_BCHW.numpy().tobytes()) for b in islice(stream.batches(start), count)]
