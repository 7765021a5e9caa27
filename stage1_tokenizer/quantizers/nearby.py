"""The codes nearest to a code, by rank: 0 is the code itself, 1 the nearest other, ….

Legend: D code dimension, N codes, K codes of a codebook, M nearest codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import count

import numpy as np
import torch
from torch import Tensor

from launch.ranks.transfer import to_device
from stage1_tokenizer.layers.precision import float32_as

TILE = 1 << 24
"""Distances computed at once."""


def drawn_ranks(uniform_X2N: np.ndarray, share: float, nearest: int) -> np.ndarray:
    """The ranks of what replaces the codes of some samples, int64 (X, N), from two uniform numbers for each code.

    0, the code itself, unless the first number is below `share`; else the second one evenly among `nearest` ranks.
    """
    rank_XN = np.minimum((uniform_X2N[:, 1] * nearest).astype(np.int64), nearest - 1)
    return np.where(uniform_X2N[:, 0] < share, rank_XN, 0)


@torch.no_grad()
def nearby_vectors(code_KD: Tensor, idx_N: Tensor, rank_N: Tensor, nearest: int) -> Tensor:
    """The codes of these ranks among the `nearest` of each code by ‖e − e'‖, idx_N int64; larger ranks count as the
    last one. A code is its own nearest, also where others are equal to it."""
    nearest = min(nearest, len(code_KD))
    rank_N = rank_N.clamp(max=nearest - 1)
    near_N = torch.empty_like(idx_N)
    rows = max(1, TILE // len(code_KD))
    with float32_as("ieee"):
        half_K = code_KD.square().sum(1) / 2
        for idx_n, rank_n, near_n in zip(idx_N.split(rows), rank_N.split(rows), near_N.split(rows), strict=True):
            far_nK = torch.addmm(half_K, code_KD[idx_n], code_KD.T, alpha=-1).scatter_(1, idx_n[:, None], -math.inf)
            near_nM = far_nK.topk(nearest, largest=False, sorted=True).indices
            near_n.copy_(near_nM.gather(1, rank_n[:, None])[:, 0])
    return near_N


def nearby_levels(levels: Sequence[int], digit_ND: Tensor, rank_N: Tensor, nearest: int) -> Tensor:
    """The levels of the codes of these ranks among the `nearest` of each code, digit_ND int64.

    Nearest is what differs by the fewest steps between levels; among equals, what comes first in the order of the
    differences. Larger ranks count as the last one. No codebook is made, so that there may be any number of codes.
    """
    nearest = min(nearest, math.prod(levels))
    offset_MD = to_device(_offsets(tuple(levels), nearest), digit_ND.device)
    level_D = to_device(torch.tensor(levels), digit_ND.device)
    near_ND = torch.empty_like(digit_ND)
    rank_N1 = rank_N.clamp(max=nearest - 1)[:, None]
    rows = max(1, TILE // offset_MD.numel())
    for digit_nD, rank_n1, near_nD in zip(digit_ND.split(rows), rank_N1.split(rows), near_ND.split(rows), strict=True):
        moved_nMD = digit_nD[:, None] + offset_MD
        there_nM = ((moved_nMD >= 0) & (moved_nMD < level_D)).all(2)
        which_n1 = torch.searchsorted(there_nM.cumsum(1), rank_n1 + 1)
        near_nD.copy_(moved_nMD.gather(1, which_n1[..., None].expand(-1, -1, len(levels)))[:, 0])
    return near_ND


@lru_cache(8)
def _offsets(levels: tuple[int, ...], nearest: int) -> Tensor:
    """Differences between codes, (M, D) int64, by their sums of absolute values: enough that from every code, those of
    corners too, `nearest` of them lead to codes."""
    ways = [1]  # of a corner: the number of codes at each distance
    for size in levels:
        ways = [sum(ways[max(0, at - size + 1) : at + 1]) for at in range(len(ways) + size - 1)]
    radius = next(r for r in count() if sum(ways[: r + 1]) >= nearest)
    found: list[tuple[int, ...]] = [()]
    for size in levels:
        most = min(size - 1, radius)
        found = [
            (*first, step)
            for first in found
            for step in range(-most, most + 1)
            if sum(map(abs, first)) + abs(step) <= radius
        ]
    return torch.tensor(sorted(found, key=lambda one: (sum(map(abs, one)), one)), dtype=torch.int64)
