"""Triton programs of group normalization and swish, backward; legend and rules as in the forward programs.

With x̂ = (x - mean)·scale, t = w·x̂ + b and d = dy·swish'(t), sums over a group's M values: dx is
scale·(w·d - Σ(w·d)/M - x̂·Σ(w·d·x̂)/M), the gradient of w is Σ d·x̂ and that of b is Σ d, over positions and pictures.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stage1_tokenizer.kernels.gpu.group_norm_programs import by_column, by_group, columns, offsets, weight_and_bias


@triton.jit
def normed_and_slope(
    x,
    dy,
    place,
    kept,
    mean_C,
    scale_C,
    weight_C,
    bias_C,
    swish: tl.constexpr,
):
    """x̂ and d at some places; d is 0 where there is none."""
    value = tl.load(x + place, mask=kept, other=0.0).to(tl.float32)
    slope = tl.load(dy + place, mask=kept, other=0.0).to(tl.float32)
    value = (value - mean_C[None, :]) * scale_C[None, :]
    if swish:
        t = value * weight_C[None, :] + bias_C[None, :]
        sigmoid = tl.sigmoid(t)
        slope = slope * (sigmoid * (1.0 + t * (1.0 - sigmoid)))
    return value, slope


@triton.jit
def of_columns(
    weight,
    bias,
    mean_BG,
    scale_BG,
    b,
    block,
    channel,
    there,
    groups: tl.constexpr,
    each: tl.constexpr,
    padded: tl.constexpr,
    group_block: tl.constexpr,
    affine: tl.constexpr,
    per_picture: tl.constexpr,
):
    """Mean, scale, weight and bias of the columns."""
    group = block * group_block + tl.arange(0, group_block)
    mean_G = tl.load(mean_BG + b.to(tl.int64) * groups + group, mask=group < groups, other=0.0)
    scale_G = tl.load(scale_BG + b.to(tl.int64) * groups + group, mask=group < groups, other=0.0)
    weight_C, bias_C = weight_and_bias(weight, bias, b, channel, there, groups * each, affine, per_picture)
    return by_column(mean_G, padded, group_block), by_column(scale_G, padded, group_block), weight_C, bias_C


@triton.jit(do_not_specialize=["chunks"])
def sums(
    x,
    dy,
    weight,
    bias,
    mean_BG,
    scale_BG,
    sum_BK2C,
    sum_BK2G,
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
    affine: tl.constexpr,
    per_picture: tl.constexpr,
    swish: tl.constexpr,
):
    """Σ d·x̂ and Σ d of each channel in each chunk of rows, and Σ w·d·x̂ and Σ w·d of each group."""
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    block = tl.program_id(0) % blocks
    k = tl.program_id(0) // blocks % chunks
    b = tl.program_id(0) // blocks // chunks
    x += b.to(tl.int64) * positions * (groups * each)
    dy += b.to(tl.int64) * positions * (groups * each)
    channel, there = columns(block, groups, each, padded, group_block)
    mean_C, scale_C, weight_C, bias_C = of_columns(
        weight, bias, mean_BG, scale_BG, b, block, channel, there, groups, each, padded, group_block, affine,
        per_picture,
    )  # fmt: skip
    with_x = tl.zeros([rows, group_block * padded], tl.float32)
    alone = tl.zeros([rows, group_block * padded], tl.float32)
    end = tl.minimum((k + 1) * chunk_rows, positions)
    for start in range(k * chunk_rows, end, rows):
        row = start + tl.arange(0, rows)
        kept = (row < end)[:, None] & there[None, :]
        place = offsets(row, channel, positions, groups, each, last, wide)
        value, slope = normed_and_slope(x, dy, place, kept, mean_C, scale_C, weight_C, bias_C, swish)
        with_x += slope * value
        alone += slope
    with_x_C = tl.sum(with_x, 0)
    alone_C = tl.sum(alone, 0)
    part = b.to(tl.int64) * chunks + k
    tl.store(sum_BK2C + part * 2 * (groups * each) + channel, with_x_C, mask=there)
    tl.store(sum_BK2C + (part * 2 + 1) * (groups * each) + channel, alone_C, mask=there)
    group = block * group_block + tl.arange(0, group_block)
    with_x_G = by_group(with_x_C * weight_C, padded, group_block)
    alone_G = by_group(alone_C * weight_C, padded, group_block)
    tl.store(sum_BK2G + part * 2 * groups + group, with_x_G, mask=group < groups)
    tl.store(sum_BK2G + (part * 2 + 1) * groups + group, alone_G, mask=group < groups)


@triton.jit
def added(
    sum_P2C,
    dweight,
    dbias,
    number,
    count,
    block,
    groups: tl.constexpr,
    each: tl.constexpr,
    padded: tl.constexpr,
    group_block: tl.constexpr,
    rows: tl.constexpr,
    last: tl.constexpr,
    wide: tl.constexpr,
):
    """The gradients of weight and bias: sums of `count` parts, the `number`th time so many."""
    channel, there = columns(block, groups, each, padded, group_block)
    with_x = tl.zeros([rows, group_block * padded], tl.float32)
    alone = tl.zeros([rows, group_block * padded], tl.float32)
    for start in range(0, count, rows):
        part = start + tl.arange(0, rows)
        kept = (part < count)[:, None] & there[None, :]
        place = (number.to(tl.int64) * count + part)[:, None] * 2 * (groups * each) + channel[None, :]
        with_x += tl.load(sum_P2C + place, mask=kept, other=0.0)
        alone += tl.load(sum_P2C + groups * each + place, mask=kept, other=0.0)
    place_C = number.to(tl.int64) * (groups * each) + channel
    tl.store(dweight + place_C, tl.sum(with_x, 0).to(dweight.dtype.element_ty), mask=there)
    tl.store(dbias + place_C, tl.sum(alone, 0).to(dbias.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["count"])
def weight_gradients(
    sum_P2C,
    dweight,
    dbias,
    count,
    groups: tl.constexpr,
    each: tl.constexpr,
    padded: tl.constexpr,
    group_block: tl.constexpr,
    rows: tl.constexpr,
    last: tl.constexpr,
    wide: tl.constexpr,
):
    """The gradients of weight and bias from the sums of each picture."""
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    number = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    added(sum_P2C, dweight, dbias, number, count, block, groups, each, padded, group_block, rows, last, wide)


@triton.jit
def of_chunks(sum_BK2G, b, group, chunks, groups: tl.constexpr, padded_chunks: tl.constexpr):
    """Both sums of groups, over the chunks of their picture."""
    chunk = tl.arange(0, padded_chunks)
    place = (b.to(tl.int64) * chunks + chunk)[:, None] * 2 * groups + group[None, :]
    kept = (chunk < chunks)[:, None] & (group < groups)[None, :]
    with_x_G = tl.sum(tl.load(sum_BK2G + place, mask=kept, other=0.0), 0)
    return with_x_G, tl.sum(tl.load(sum_BK2G + groups + place, mask=kept, other=0.0), 0)


@triton.jit(do_not_specialize=["chunks", "parts", "outputs", "count"])
def gradients(
    x,
    dy,
    dx,
    weight,
    bias,
    mean_BG,
    scale_BG,
    dweight,
    dbias,
    sum_BK2C,
    sum_BK2G,
    positions,
    chunks,
    parts,
    part_rows,
    outputs,
    count,
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
    """dx at a part of the rows; the first programs add the gradients of weights, `outputs` times `count` parts."""
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    block = tl.program_id(0) % blocks
    number = tl.program_id(0) // blocks
    if number < outputs:
        added(sum_BK2C, dweight, dbias, number, count, block, groups, each, padded, group_block, rows, last, wide)
    else:
        k = (number - outputs) % parts
        b = (number - outputs) // parts
        channel, there = columns(block, groups, each, padded, group_block)
        mean_C, scale_C, weight_C, bias_C = of_columns(
            weight, bias, mean_BG, scale_BG, b, block, channel, there, groups, each, padded, group_block, affine,
            per_picture,
        )  # fmt: skip
        group = block * group_block + tl.arange(0, group_block)
        with_x_G, alone_G = of_chunks(sum_BK2G, b, group, chunks, groups, padded_chunks)
        with_x_G /= positions * 1.0 * each
        alone_G /= positions * 1.0 * each
        with_x_C = by_column(with_x_G, padded, group_block)
        alone_C = by_column(alone_G, padded, group_block)
        first = b.to(tl.int64) * positions * (groups * each)
        end = tl.minimum((k + 1) * part_rows, positions)
        for start in range(k * part_rows, end, rows):
            row = start + tl.arange(0, rows)
            kept = (row < end)[:, None] & there[None, :]
            place = first + offsets(row, channel, positions, groups, each, last, wide)
            value, slope = normed_and_slope(x, dy, place, kept, mean_C, scale_C, weight_C, bias_C, swish)
            slope = slope * weight_C[None, :] - alone_C[None, :] - value * with_x_C[None, :]
            tl.store(dx + place, (slope * scale_C[None, :]).to(dx.dtype.element_ty), mask=kept)


@triton.jit
def whole_gradients(
    x,
    dy,
    dx,
    weight,
    bias,
    mean_BG,
    scale_BG,
    sum_B2C,
    positions,
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
    """dx of groups that fit one tile, and Σ d·x̂ and Σ d of their channels."""
    blocks: tl.constexpr = (groups + group_block - 1) // group_block
    block = tl.program_id(0) % blocks
    b = tl.program_id(0) // blocks
    channel, there = columns(block, groups, each, padded, group_block)
    mean_C, scale_C, weight_C, bias_C = of_columns(
        weight, bias, mean_BG, scale_BG, b, block, channel, there, groups, each, padded, group_block, affine,
        per_picture,
    )  # fmt: skip
    row = tl.arange(0, rows)
    kept = (row < positions)[:, None] & there[None, :]
    place = b.to(tl.int64) * positions * (groups * each)
    place += offsets(row, channel, positions, groups, each, last, wide)
    value, slope = normed_and_slope(x, dy, place, kept, mean_C, scale_C, weight_C, bias_C, swish)
    with_x_C = tl.sum(slope * value, 0)
    alone_C = tl.sum(slope, 0)
    tl.store(sum_B2C + b.to(tl.int64) * 2 * (groups * each) + channel, with_x_C, mask=there)
    tl.store(sum_B2C + (b.to(tl.int64) * 2 + 1) * (groups * each) + channel, alone_C, mask=there)
    total = positions * 1.0 * each
    with_x_C = by_column(by_group(with_x_C * weight_C, padded, group_block) / total, padded, group_block)
    alone_C = by_column(by_group(alone_C * weight_C, padded, group_block) / total, padded, group_block)
    slope = slope * weight_C[None, :] - alone_C[None, :] - value * with_x_C[None, :]
    tl.store(dx + place, (slope * scale_C[None, :]).to(dx.dtype.element_ty), mask=kept)
