"""Triton programs of group normalization and swish, forward. The backward ones are in a file of their own.

A program has the channels of some groups (columns) at some positions (rows) of one picture. Columns are padded to
powers of 2 in each group. Sums are kept for each element of a tile until the last tile, then added in a fixed order.
There are no atomic additions, so results are the same in each run.
Legend: B batch, N positions, C channels, G groups, K chunks of rows. `each`: channels of a group; `last`: whether the
layout is channels-last, else channels-first; `wide`: whether offsets in a picture need 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def columns(block, groups: tl.constexpr, each: tl.constexpr, padded: tl.constexpr, group_block: tl.constexpr):
    """Of each column of a block of groups: its channel, and whether there is one."""
    column = tl.arange(0, group_block * padded)
    group = block * group_block + column // padded
    if each == padded and groups % group_block == 0:  # seen to be contiguous and whole: loads of 16 bytes
        channel = block * group_block * padded + column
        there = tl.full([group_block * padded], 1, tl.int1)
    else:
        channel = group * each + column % padded
        there = (group < groups) & (column % padded < each)
    return channel, there


@triton.jit
def offsets(
    row,
    channel,
    positions,
    groups: tl.constexpr,
    each: tl.constexpr,
    last: tl.constexpr,
    wide: tl.constexpr,
):
    """Of elements in their picture, (rows, columns)."""
    if wide:
        row = row.to(tl.int64)
        channel = channel.to(tl.int64)
    if last:
        offset = row[:, None] * (groups * each) + channel[None, :]
    else:
        offset = channel[None, :] * positions + row[:, None]
    return offset


@triton.jit
def by_group(h_C, padded: tl.constexpr, group_block: tl.constexpr):
    """Sums over the columns of each group."""
    return tl.sum(tl.reshape(h_C, [group_block, padded]), 1)


@triton.jit
def by_column(h_G, padded: tl.constexpr, group_block: tl.constexpr):
    """The value of each column's group."""
    return tl.reshape(tl.broadcast_to(h_G[:, None], [group_block, padded]), [group_block * padded])


@triton.jit
def weight_and_bias(
    weight,
    bias,
    b,
    channel,
    there,
    channels: tl.constexpr,
    affine: tl.constexpr,
    per_picture: tl.constexpr,
):
    """Of the columns, in float32: 1 and 0 where there are none; `per_picture`: each picture has its own."""
    if affine:
        place = channel
        if per_picture:
            place = b.to(tl.int64) * channels + channel
        weight_C = tl.load(weight + place, mask=there, other=0.0).to(tl.float32)
        bias_C = tl.load(bias + place, mask=there, other=0.0).to(tl.float32)
    else:
        weight_C = there.to(tl.float32)
        bias_C = weight_C * 0.0
    return weight_C, bias_C


@triton.jit
def scaled(normed, weight_C, bias_C, swish: tl.constexpr):
    """Normalized values by weight and bias, and by swish if there is one."""
    value = normed * weight_C[None, :] + bias_C[None, :]
    if swish:
        value = value * tl.sigmoid(value)
    return value


@triton.jit(do_not_specialize=["chunks"])
def statistics(
    x,
    mean_BKG,
    square_BKG,
    positions,
    chunks,
    chunk_rows,
    groups: tl.constexpr,
    each: tl.constexpr,
    padded: tl.constexpr,
    group_block: tl.constexpr,
    rows: tl.constexpr,
    last: tl.constexpr,
    wide: tl.constexpr,
):
    """Mean, and sum of squared deviations from it, of each group in each chunk of rows (Welford 1962)."""
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    block = tl.program_id(0) % blocks
    k = tl.program_id(0) // blocks % chunks
    b = tl.program_id(0) // blocks // chunks
    x += b.to(tl.int64) * positions * (groups * each)
    channel, there = columns(block, groups, each, padded, group_block)
    first = k * chunk_rows
    end = tl.minimum(first + chunk_rows, positions)
    mean = tl.zeros([rows, group_block * padded], tl.float32)
    square = tl.zeros([rows, group_block * padded], tl.float32)
    count = 0.0
    for start in range(first, end, rows):
        row = start + tl.arange(0, rows)
        kept = (row < end)[:, None] & there[None, :]
        place = offsets(row, channel, positions, groups, each, last, wide)
        value = tl.load(x + place, mask=kept, other=0.0).to(tl.float32)
        count += 1.0
        away = value - mean
        moved = mean + away * (1.0 / count)
        square = tl.where(kept, square + away * (value - moved), square)
        mean = tl.where(kept, moved, mean)
    length = end - first
    count_N = ((length - tl.arange(0, rows) + rows - 1) // rows).to(tl.float32)
    total_G = by_group(tl.sum(mean * count_N[:, None], 0), padded, group_block)
    mean_G = total_G / (length * each).to(tl.float32)
    away = tl.where(there[None, :], mean - by_column(mean_G, padded, group_block)[None, :], 0.0)
    square_G = by_group(tl.sum(square + away * away * count_N[:, None], 0), padded, group_block)
    group = block * group_block + tl.arange(0, group_block)
    place_G = (b.to(tl.int64) * chunks + k) * groups + group
    tl.store(mean_BKG + place_G, mean_G, mask=group < groups)
    tl.store(square_BKG + place_G, square_G, mask=group < groups)


@triton.jit
def merged(
    mean_BKG,
    square_BKG,
    b,
    group,
    positions,
    chunks,
    chunk_rows,
    epsilon,
    groups: tl.constexpr,
    each: tl.constexpr,
    padded_chunks: tl.constexpr,
):
    """Mean and inverse deviation of groups, from those of their chunks (Chan et al. 1979)."""
    k = tl.arange(0, padded_chunks)
    place = (b.to(tl.int64) * chunks + k)[:, None] * groups + group[None, :]
    kept = (k < chunks)[:, None] & (group < groups)[None, :]
    mean_KG = tl.load(mean_BKG + place, mask=kept, other=0.0)
    square_KG = tl.load(square_BKG + place, mask=kept, other=0.0)
    length_K = tl.maximum(tl.minimum(positions - k * chunk_rows, chunk_rows), 0).to(tl.float32)
    mean_G = tl.sum(mean_KG * length_K[:, None], 0) / positions
    away_KG = mean_KG - mean_G[None, :]
    square_G = tl.sum(square_KG + away_KG * away_KG * (length_K * each)[:, None], 0)
    return mean_G, 1.0 / tl.sqrt(square_G / (positions * 1.0 * each) + epsilon)


@triton.jit(do_not_specialize=["chunks", "parts"])
def normalize(
    x,
    y,
    weight,
    bias,
    mean_BKG,
    square_BKG,
    mean_BG,
    scale_BG,
    positions,
    chunks,
    chunk_rows,
    parts,
    part_rows,
    epsilon,
    padded_chunks: tl.constexpr,
    groups: tl.constexpr,
    each: tl.constexpr,
    padded: tl.constexpr,
    group_block: tl.constexpr,
    rows: tl.constexpr,
    last: tl.constexpr,
    wide: tl.constexpr,
    affine: tl.constexpr,
    per_picture: tl.constexpr,
    swish: tl.constexpr,
):
    """The output at a part of the rows, from the statistics of all chunks."""
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    block = tl.program_id(0) % blocks
    k = tl.program_id(0) // blocks % parts
    b = tl.program_id(0) // blocks // parts
    x += b.to(tl.int64) * positions * (groups * each)
    y += b.to(tl.int64) * positions * (groups * each)
    channel, there = columns(block, groups, each, padded, group_block)
    group = block * group_block + tl.arange(0, group_block)
    mean_G, scale_G = merged(
        mean_BKG, square_BKG, b, group, positions, chunks, chunk_rows, epsilon, groups, each, padded_chunks
    )
    if k == 0:
        tl.store(mean_BG + b.to(tl.int64) * groups + group, mean_G, mask=group < groups)
        tl.store(scale_BG + b.to(tl.int64) * groups + group, scale_G, mask=group < groups)
    mean_C = by_column(mean_G, padded, group_block)
    scale_C = by_column(scale_G, padded, group_block)
    weight_C, bias_C = weight_and_bias(weight, bias, b, channel, there, groups * each, affine, per_picture)
    end = tl.minimum((k + 1) * part_rows, positions)
    for start in range(k * part_rows, end, rows):
        row = start + tl.arange(0, rows)
        kept = (row < end)[:, None] & there[None, :]
        place = offsets(row, channel, positions, groups, each, last, wide)
        value = tl.load(x + place, mask=kept, other=0.0).to(tl.float32)
        value = (value - mean_C[None, :]) * scale_C[None, :]
        value = scaled(value, weight_C, bias_C, swish)
        tl.store(y + place, value.to(y.dtype.element_ty), mask=kept)


@triton.jit
def whole(
    x,
    y,
    weight,
    bias,
    mean_BG,
    scale_BG,
    positions,
    epsilon,
    groups: tl.constexpr,
    each: tl.constexpr,
    padded: tl.constexpr,
    group_block: tl.constexpr,
    rows: tl.constexpr,
    last: tl.constexpr,
    wide: tl.constexpr,
    affine: tl.constexpr,
    per_picture: tl.constexpr,
    swish: tl.constexpr,
):
    """Statistics and output of groups that fit one tile, which is read once."""
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    block = tl.program_id(0) % blocks
    b = tl.program_id(0) // blocks
    channel, there = columns(block, groups, each, padded, group_block)
    weight_C, bias_C = weight_and_bias(weight, bias, b, channel, there, groups * each, affine, per_picture)
    row = tl.arange(0, rows)
    kept = (row < positions)[:, None] & there[None, :]
    place = b.to(tl.int64) * positions * (groups * each)
    place += offsets(row, channel, positions, groups, each, last, wide)
    value = tl.load(x + place, mask=kept, other=0.0).to(tl.float32)
    count = positions * 1.0 * each
    mean_G = by_group(tl.sum(value, 0), padded, group_block) / count
    value = tl.where(kept, value - by_column(mean_G, padded, group_block)[None, :], 0.0)
    scale_G = 1.0 / tl.sqrt(by_group(tl.sum(value * value, 0), padded, group_block) / count + epsilon)
    value = value * by_column(scale_G, padded, group_block)[None, :]
    value = scaled(value, weight_C, bias_C, swish)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=kept)
    group = block * group_block + tl.arange(0, group_block)
    tl.store(mean_BG + b.to(tl.int64) * groups + group, mean_G, mask=group < groups)
    tl.store(scale_BG + b.to(tl.int64) * groups + group, scale_G, mask=group < groups)
