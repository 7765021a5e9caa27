"""Where codes lie in a sample: which of its pixels, samples or frames belong to each.

Shapes: H W pixels, T frames, h w t the codes' grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource


def frames_of_codes(frames: int, codes: int) -> list[int]:
    """How many frames of a clip each code along time stands for.

    Where the tokenizer is causal in time, 1 for the first and as many for each of the others. ValueError for numbers
    that no tokenizer gives. (Strides are powers of 2, so that both ways never fit the same numbers.)
    """
    for first, others in (([], codes), ([1], codes - 1)):
        each, rest = divmod(frames - len(first), max(others, 1))
        if not rest and each.bit_count() == 1:
            return first + [each] * others
    raise ValueError(f"{frames} frames don't become {codes} codes in time")


def touched(hole: Tensor, grid: Sequence[int]) -> Tensor:
    """The codes on a grid that a hole touches: hole_HW, hole_T of a sound or hole_THW of a clip → bool of the grid."""
    if hole.ndim < 3:
        pool = F.adaptive_max_pool2d if hole.ndim == 2 else F.adaptive_max_pool1d
        return pool(hole.float()[None, None], tuple(grid))[0, 0] > 0
    parts = hole.split(frames_of_codes(len(hole), grid[0]))
    hole_tHW = torch.stack([part_THW.any(0) for part_THW in parts])
    return F.adaptive_max_pool2d(hole_tHW.float()[None], tuple(grid[1:]))[0] > 0


def kept_codes(source: CodeSource, frames: int) -> int:
    """How many codes along time the first frames of a clip are, exactly.

    UserError, which names the numbers that are possible, for frames that end inside a code.
    """
    each = frames_of_codes(int(source.transform["frames"]), source.grid[0])
    ends = torch.tensor(each).cumsum(0).tolist()
    if frames not in ends[:-1]:
        raise UserError(
            f"overlap={frames} frames don't end where a code ends: set it to {', '.join(map(str, ends[:-1]))}"
        )
    return int(ends.index(frames)) + 1
