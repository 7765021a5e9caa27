"""Videos beyond the trained length: windows of it, each begun with the last frames of the one before.

The overlap is decoded and encoded again, so that a window's first codes are what the tokenizer makes of a clip that
begins there: the first code of a causal one stands for one frame. A tokenizer that isn't causal sees the last frame
held after the overlap.

Shapes: B samples, W windows, C channels, T frames, H W pixels, t h w the codes' grid, N codes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer import Tokenizer
from stage2_prior.codes.axes import frames_of_codes, kept_codes
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.sampling import SampleConfig


class Sliding:
    """How windows follow each other."""

    def __init__(self, windows: int, overlap: int, source: CodeSource):
        """UserError for frames that don't end where a code ends."""
        self.windows, self.overlap, self.source = windows, overlap, source
        self.kept = kept_codes(source, overlap)
        """Codes along time that a window has from the one before."""

    @classmethod
    def of(cls, config: SampleConfig, source: CodeSource) -> "Sliding | None":
        """As configured; None for one window."""
        if config.windows == 1:
            return None
        if source.kind != "videos":
            raise UserError(f"windows={config.windows} is for videos, but the prior is of {source.kind}: leave it out")
        if source.grid[0] == 1:
            raise UserError(f"windows={config.windows} needs several codes in time, and clips have one: leave it out")
        ends = torch.tensor(frames_of_codes(int(source.transform["frames"]), source.grid[0])).cumsum(0).tolist()
        half = int(ends[(source.grid[0] - 1) // 2])
        return cls(config.windows, half if config.overlap is None else config.overlap, source)

    def given(self, tokenizer: Tokenizer, idx_Bthw: Tensor) -> Tensor:
        """What a window is given of the one before with these codes: given_BN, -1 where codes are to be drawn."""
        x_BCTHW = tokenizer.decode(idx_Bthw)
        last_BCTHW = x_BCTHW[:, :, -self.overlap :]
        held_BCTHW = last_BCTHW[:, :, -1:].expand(-1, -1, x_BCTHW.shape[2] - self.overlap, -1, -1)
        codes = tokenizer.encode(torch.cat([last_BCTHW, held_BCTHW], dim=2))
        codes[..., self.kept :, :, :] = -1
        return codes.flatten(1)


def joined(windows: Sequence[Tensor], overlap: int) -> Tensor:
    """The video of some windows x_BCTHW; where two overlap, it is the earlier one's."""
    first, *others = windows
    return torch.cat([first, *(x_BCTHW[:, :, overlap:] for x_BCTHW in others)], dim=2)
