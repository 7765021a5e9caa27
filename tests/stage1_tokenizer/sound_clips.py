"""Odd clips that everything must bear: silence, an offset, full scale, shorter than any window."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


@functools.cache
def clips() -> dict[str, Tensor]:
    """x_BCT by name, float32 in [-1, 1]."""
    noise = torch.randn(2, 1, 3000, generator=torch.Generator().manual_seed(1)) * 0.3
    half = noise.clone()
    half[..., 1000:] = 0
    tone = torch.sin(2 * math.pi * 440 / 16_000 * torch.arange(3000.0)).expand(2, 1, -1)
    return {
        "silence": torch.zeros(2, 1, 3000),
        "offset": torch.full((2, 1, 3000), 0.25),
        "clipped": (noise * 20).clamp(-1, 1),
        "one step": torch.full((2, 1, 3000), 1 / 32768),
        "followed by zeros": half,
        "tone": 0.5 * tone,
        "one sample": torch.full((1, 1, 1), 0.5),
        "seven samples": noise[:1, :, :7],
        "stereo, shorter than a window": noise[:, :, :300].expand(-1, 2, -1),
    }
