"""Triton programs of the search for nearest codes.

A program has some rows of latents and a share of the codes, tile by tile, with a running minimum. float32 is multiplied
as IEEE says, not as TF32. Legend: D code dimension, N rows of latents, K codes, S shares of the codes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norms(code_KD, half_K, size, dim: tl.constexpr, part: tl.constexpr, codes: tl.constexpr):
    """‖e‖²/2 of each code."""
    code = tl.program_id(0) * codes + tl.arange(0, codes)
    place = code.to(tl.int64)[:, None] * dim
    total = tl.zeros([codes], tl.float32)
    for start in range(0, dim, part):
        d = start + tl.arange(0, part)
        e = tl.load(code_KD + place + d[None, :], mask=(code < size)[:, None] & (d < dim)[None, :], other=0.0)
        total += tl.sum(e * e, 1)
    tl.store(half_K + code, total * 0.5, mask=code < size)


@triton.jit(do_not_specialize=["count", "size", "share"])
def search(
    z_ND,
    code_KD,
    half_K,
    least_SN,
    where_SN,
    count,
    size,
    share,
    dim: tl.constexpr,
    part: tl.constexpr,
    rows: tl.constexpr,
    codes: tl.constexpr,
):
    """The least ‖e‖²/2 - z·e of each row in each share of the codes, and its first place."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    first = tl.program_id(1) * share
    end = tl.minimum(first + share, size)
    least = tl.full([rows], float("inf"), tl.float32)
    where = tl.zeros([rows], tl.int32)
    z_ND += row.to(tl.int64)[:, None] * dim
    for start in range(first, end, codes):
        code = start + tl.arange(0, codes)
        place = code.to(tl.int64)[None, :] * dim
        product = tl.zeros([rows, codes], tl.float32)
        for begin in range(0, dim, part):
            d = begin + tl.arange(0, part)
            z = tl.load(z_ND + d[None, :], mask=(row < count)[:, None] & (d < dim)[None, :], other=0.0)
            e = tl.load(code_KD + place + d[:, None], mask=(code < end)[None, :] & (d < dim)[:, None], other=0.0)
            product = tl.dot(z, e, product, input_precision="ieee")
        half = tl.load(half_K + code, mask=code < end, other=float("inf"))
        distance = half[None, :] - product
        distance = tl.where(distance == distance, distance, float("inf"))  # what is no number is never nearest
        low, index = tl.min(distance, 1, return_indices=True, return_indices_tie_break_left=True)
        where = tl.where(low < least, start + index, where)
        least = tl.where(low < least, low, least)
    place = tl.program_id(1).to(tl.int64) * count + row
    tl.store(least_SN + place, least, mask=row < count)
    tl.store(where_SN + place, where, mask=row < count)


@triton.jit(do_not_specialize=["count", "shares"])
def chosen(least_SN, where_SN, idx_N, count, shares, rows: tl.constexpr):
    """The place of the least of all shares, of the first one on a tie."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    least = tl.full([rows], float("inf"), tl.float32)
    where = tl.zeros([rows], tl.int32)
    for number in range(shares):
        place = number * count + row
        low = tl.load(least_SN + place, mask=row < count, other=float("inf"))
        index = tl.load(where_SN + place, mask=row < count, other=0)
        where = tl.where(low < least, index, where)
        least = tl.where(low < least, low, least)
    tl.store(idx_N + row, where.to(tl.int64), mask=row < count)
