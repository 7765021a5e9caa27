"""Shapes of published priors by name: the choices of `model.preset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["LlamaGen-B", "LlamaGen-L", "LlamaGen-XL", "LlamaGen-XXL", "LlamaGen-3B"]


@dataclass(frozen=True)
class Shape:
    """The size of a transformer."""

    layers: int
    width: int
    heads: int
    feed_forward_width: int


PRESETS: dict[str, Shape] = {
    "LlamaGen-B": Shape(12, 768, 12, 2048),
    "LlamaGen-L": Shape(24, 1024, 16, 2816),
    "LlamaGen-XL": Shape(36, 1280, 20, 3584),
    "LlamaGen-XXL": Shape(48, 1536, 24, 4096),
    "LlamaGen-3B": Shape(24, 3200, 32, 8704),
}
"""Sun et al. 2024, table 1; inner widths are 8/3 of the width rounded up to a multiple of 256, as in their code."""
