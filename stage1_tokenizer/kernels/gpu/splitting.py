"""How the work of group normalization is split into programs of a GPU: from shapes alone, so that results never change.

Legend: B batch, C channels, N positions, G groups; programs have rows (positions) and columns (channels).
"""

from __future__ import annotations

from typing import NamedTuple

from stage1_tokenizer.kernels.gpu.loading import ceil_div, power_of_2

TILE, WHOLE = 4096, 8192
"""Values in one tile of a program; values of groups that are read whole, once."""

COLUMNS = 512
"""The most channels in a tile."""

SUMMING, WRITING, CHUNKS = 1024, 2048, 128
"""Programs that a pass over the input aims at: for statistics, for outputs; the most chunks of a picture."""


class Plan(NamedTuple):
    """How the work on an input is split; from its shape and layout alone."""

    shape: dict[str, int | bool]
    """Compile-time values of all programs: groups, tile and layout."""
    blocks: int
    """Blocks of groups."""
    whole: bool
    """Whether groups fit one tile."""
    chunks: int
    chunk_rows: int
    """Into how many chunks of how many rows a picture is split for statistics,"""
    parts: int
    part_rows: int
    """and for outputs."""

    @property
    def warps(self) -> int:
        """Of 32 threads, with 16 or 32 values each."""
        values = int(self.shape["rows"] * self.shape["group_block"] * self.shape["padded"])
        return max(1, min(8, values // 512))


def plan(batch: int, channels: int, positions: int, groups: int, *, last: bool) -> Plan:
    """For an input of (batch, channels, positions), channels-last if `last`."""
    each = channels // groups
    padded = power_of_2(each)
    most = max(1, COLUMNS // padded)
    tile_rows = power_of_2(positions)
    whole = tile_rows * padded <= WHOLE
    if whole:
        wanted = ceil_div(16, each) if last else 1  # 32 bytes, which memory reads at once
        group_block = max(1, min(power_of_2(min(wanted, groups)), WHOLE // (tile_rows * padded), most))
    else:
        group_block = min(power_of_2(groups), most) if last else 1
    rows = tile_rows if whole else min(tile_rows, max(1, TILE // (group_block * padded)))
    blocks = ceil_div(groups, group_block)
    chunks, chunk_rows = _split(positions, rows, 4, min(CHUNKS, ceil_div(SUMMING, batch * blocks)))
    parts, part_rows = _split(positions, rows, 2, ceil_div(WRITING, batch * blocks))
    wide = channels * positions >= 1 << 31
    shape = {"groups": groups, "each": each, "padded": padded, "group_block": group_block, "rows": rows}
    return Plan(shape | {"last": last, "wide": wide}, blocks, whole, chunks, chunk_rows, parts, part_rows)


def _split(positions: int, rows: int, tiles: int, most: int) -> tuple[int, int]:
    """Number of parts and rows of one: at most so many parts, of at least so many tiles."""
    parts = max(1, min(most, positions // (rows * tiles)))
    part_rows = ceil_div(ceil_div(positions, parts), rows) * rows
    return ceil_div(positions, part_rows), part_rows
