"""The search for nearest codes, k-means, and draws from the global batch.

Legend: D code dimension, N rows of latents, K codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from launch.ranks.reduce import all_sum, world
from stage1_tokenizer.layers.precision import float32_as
from stage1_tokenizer.quantizers.usage import count_codes

CPU_TILE, GPU_TILE = (1 << 10, 1 << 10), (1 << 12, 1 << 14)
"""Rows of latents, and of codes, in a tile of distances: it fits a core's cache, or has 256 MiB on a GPU."""

MOST_EXACT = 1 << 24
"""Up to here, float32 holds all whole numbers."""

operator: Callable[[Tensor, Tensor], Tensor] | None = None
"""The search as one operator of torch, where this is installed."""


@torch.no_grad()
def nearest_code(z_ND: Tensor, code_KD: Tensor) -> Tensor:
    """Index of the closest code, idx_N int64 in [0, K), the lowest on a tie. (van den Oord et al. 2017, eq. 1)

    ‖z − e‖² is compared as ‖e‖² − 2 z·e, tile by tile, so that the distances are never all in memory. Whatever torch's
    settings are, float32 is multiplied as IEEE says, as TF32 would choose other codes. Raises ValueError unless both
    have the same D and the same type, float32 or float64.
    """
    if z_ND.dtype != code_KD.dtype or z_ND.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"latents are {z_ND.dtype} and codes {code_KD.dtype}: give both as float32")
    if z_ND.shape[1] != code_KD.shape[1]:
        raise ValueError(f"latents have {z_ND.shape[1]} channels and codes {code_KD.shape[1]}: they must agree")
    if operator is not None and (z_ND.is_cuda or torch.compiler.is_compiling()):
        return operator(z_ND, code_KD)
    with float32_as("ieee"):
        return plain_search(z_ND, code_KD)


def plain_search(z_ND: Tensor, code_KD: Tensor) -> Tensor:
    """By torch, under `float32_as("ieee")`."""
    rows, codes = CPU_TILE if z_ND.device.type == "cpu" else GPU_TILE
    half_K = torch.cat([part.square().sum(1) for part in code_KD.split(codes)]) / 2
    idx_N = torch.empty(len(z_ND), dtype=torch.int64, device=z_ND.device)
    for z_nD, idx_n in zip(z_ND.split(rows), idx_N.split(rows), strict=True):
        best = z_nD.new_full((len(z_nD),), torch.inf)
        where = torch.zeros(len(z_nD), dtype=torch.int64, device=z_nD.device)
        for start in range(0, len(code_KD), codes):
            tile = slice(start, start + codes)
            low, index = torch.addmm(half_K[tile], z_nD, code_KD[tile].T, alpha=-1).min(dim=1)
            better = low < best
            where = torch.where(better, index + start, where)
            best = torch.where(better, low, best)
        idx_n.copy_(where)
    return idx_N


def draw_rows(z_ND: Tensor, count: int, *, seed: int) -> Tensor:
    """`count` rows of the global batch (ordered by rank); the same on every rank, for a given seed.

    Rows repeat only if there are fewer than `count`. Every rank must hold the same number of rows.
    """
    return rows_in_order(z_ND, order_of_rows(len(z_ND), count, seed=seed).to(z_ND.device))


def order_of_rows(rows: int, count: int, *, seed: int) -> Tensor:
    """Which rows of the global batch `draw_rows` takes, (count,) int64 on the CPU, of `rows` on every rank."""
    order = torch.randperm(rows * world()[1], generator=torch.Generator().manual_seed(seed))
    return order.repeat(-(-count // len(order)))[:count]


def rows_in_order(z_ND: Tensor, order_K: Tensor) -> Tensor:
    """These rows of the global batch, (K, D), the same on every rank."""
    chosen = order_K - world()[0] * len(z_ND)
    mine = (chosen >= 0) & (chosen < len(z_ND))
    return all_sum(torch.where(mine[:, None], z_ND[chosen.clamp(0, len(z_ND) - 1)], 0.0))


def sums_by_code(z_ND: Tensor, idx_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Number of rows of the global batch with each code, (K,) int64, and their sum, (K, D)."""
    count_K = count_codes(idx_N, size)[0]
    # The embedding's backward is the sum by code, and unlike index_add_ it is deterministic on a GPU.
    sum_KD = torch.ops.aten.embedding_dense_backward(z_ND, idx_N, size, -1, False)
    ranks = world()[1]
    if ranks == 1 or ranks * len(z_ND) > MOST_EXACT:
        return all_sum(count_K), all_sum(sum_KD)
    both_KX = all_sum(torch.cat([sum_KD, count_K[:, None].to(sum_KD.dtype)], dim=1))  # the ranks meet once
    return both_KX[:, -1].long(), both_KX[:, :-1]


@torch.no_grad()
def kmeans(z_ND: Tensor, count: int, *, seed: int, rounds: int = 10, sphere: bool = False) -> Tensor:
    """`count` centres of the global batch by Lloyd's algorithm (Lloyd 1982), the same on every rank.

    A centre without rows does not move. `sphere`: rows and centres have unit length.
    """
    code_KD = draw_rows(z_ND, count, seed=seed)
    for _ in range(rounds):
        count_K, sum_KD = sums_by_code(z_ND, nearest_code(z_ND, code_KD), count)
        mean_KD = sum_KD / count_K.clamp_min(1)[:, None]
        mean_KD = F.normalize(mean_KD, dim=1) if sphere else mean_KD
        code_KD = torch.where((count_K > 0)[:, None], mean_KD, code_KD)
    return code_KD
