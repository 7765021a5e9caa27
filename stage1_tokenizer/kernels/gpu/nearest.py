"""The search for nearest codes as an operator of torch: on GPUs by Triton in three launches, else by the plain form.

As one operator it is no break in the graphs of torch.compile, though the plain form sets how float32 is multiplied.
Legend: D code dimension, N rows of latents, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from stage1_tokenizer.kernels.gpu.loading import OPTIONS, Cost, available, ceil_div, device_of, programs
from stage1_tokenizer.layers.precision import float32_as
from stage1_tokenizer.quantizers import nearest

TILE, PART = 64, 16
"""Rows, and codes, in a tile of products; how many of their values are multiplied at once."""

PROGRAMS, LEAST_TILES = 768, 8
"""Programs that a search aims at, and the least tiles of codes in one."""

COST = {"vqloom::nearest_code": Cost(launches=3, reads=2, writes=0)}
"""What a call costs; it multiplies N·K·D numbers, which is more than its reads."""

_triton = False


def enable() -> None:
    """Search by Triton on GPUs from now on, in this process."""
    global _triton
    _triton = True


@custom_op("vqloom::nearest_code", mutates_args=(), schema="(Tensor z, Tensor code) -> Tensor")
def _search(z_ND: Tensor, code_KD: Tensor) -> Tensor:
    if _triton and z_ND.is_cuda and z_ND.dtype == torch.float32 and available():
        return by_triton(z_ND, code_KD)
    with float32_as("ieee"):
        return nearest.plain_search(z_ND, code_KD)


@_search.register_fake
def _(z_ND, code_KD):  # type: ignore[no-untyped-def]
    return z_ND.new_empty(len(z_ND), dtype=torch.int64)


def by_triton(z_ND: Tensor, code_KD: Tensor) -> Tensor:
    """Index of the closest code, idx_N int64, for float32."""
    z_ND, code_KD = z_ND.contiguous(), code_KD.contiguous()
    (count, dim), size = z_ND.shape, len(code_KD)
    idx_N = z_ND.new_zeros(count, dtype=torch.int64)
    if not count or not size:
        return idx_N
    blocks = ceil_div(count, TILE)
    shares = max(1, min(ceil_div(PROGRAMS, blocks), size // (TILE * LEAST_TILES)))
    share = ceil_div(ceil_div(size, shares), TILE) * TILE
    shares = ceil_div(size, share)
    half_K = z_ND.new_empty(size)
    least_SN = z_ND.new_empty(shares, count)
    where_SN = z_ND.new_empty(shares, count, dtype=torch.int32)
    made = programs("nearest")
    with device_of(z_ND):
        made.norms[(ceil_div(size, TILE),)](code_KD, half_K, size, dim, PART, TILE, num_warps=4, **OPTIONS)
        made.search[(blocks, shares)](
            *(z_ND, code_KD, half_K, least_SN, where_SN, count, size, share, dim, PART, TILE, TILE),
            num_warps=4,
            **OPTIONS,
        )
        made.chosen[(ceil_div(count, 128),)](least_SN, where_SN, idx_N, count, shares, 128, num_warps=4, **OPTIONS)
    return idx_N


nearest.operator = torch.ops.vqloom.nearest_code.default
