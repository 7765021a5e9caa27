# Made from stage1_tokenizer.quantizers.base of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
from torch import Tensor
from collections.abc import Sequence
import torch
from typing import Any
from .stage1_tokenizer_reduce import at_least_float32
from dataclasses import field
from dataclasses import dataclass


@dataclass
class Quantized:
    """What a quantizer makes of latents."""

    latents: Tensor
    """What the decoder gets, (B, D, h, w): in training with a gradient to the input."""
    codes: Tensor | None
    """Indices in [0, K), int64, in the quantizer's form, mostly (B, h, w); None where there are none (gaussian)."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Weighted scalar terms to be minimised, by name: commitment, codebook, kl, entropy."""


class Quantizer(nn.Module):
    """The protocol of all quantizers.

    Codes have the form (B, h, w), one for each position; `residual` and `product` give (B, G, h, w), one from each of
    G codebooks, and `multiscale` gives (B, N), all scales' codes one after the other, row by row, coarsest first.
    """

    codebook_size: int
    """K, of each codebook; 0 where there are no codes."""
    codebooks: int = 1
    """G: codebooks whose entries differ in meaning. Axis 1 of the codes numbers them where there are several."""
    input_channels: int
    """Channels that forward takes: what quant_conv must give."""
    latent_channels: int
    """Channels of the latents: what post_quant_conv takes."""

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents, codes and losses of (B, input_channels, h, w)."""
        raise NotImplementedError

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w): exactly what forward gave with them."""
        raise NotImplementedError

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """The codes whose latents are nearest: the inverse of `embed`. TypeError for kinds that add codes up."""
        raise TypeError("codes that are added up can't be told from their sum: keep the codes themselves")

    def codes_shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Shape of one picture's codes on a latent grid (h, w). ValueError for a grid that it can't quantize."""
        return tuple(grid) if self.codebooks == 1 else (self.codebooks, *grid)

    def check_codes(self, shape: Sequence[int], dims: int) -> None:
        """Raise ValueError unless codes of this shape, batch first, can be embedded on `dims` spatial axes."""
        several = self.codebooks > 1
        if len(shape) != dims + 1 + several or (several and shape[1] != self.codebooks):
            axes = f"batch, {self.codebooks} codebooks, then the grid" if several else "batch, then the grid"
            raise ValueError(f"codes of shape {tuple(shape)} need {dims + 1 + several} axes: {axes}")


class Counter(nn.Module):
    """The number of training steps taken, as part of the state: what annealed weights and temperatures go by."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def get_extra_state(self) -> Tensor:
        """The number of training steps taken."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the number of steps."""
        self.steps = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """A state without it (a released or foreign tokenizer's) may be loaded: training then starts at 0."""
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *others)
        else:
            self.steps = 0


def grid_to_rows(z_BDhw: Tensor) -> tuple[Tensor, torch.Size]:
    """Latents as rows (N, D), at least float32, and the codes' shape (B, h, w)."""
    grid = torch.Size((z_BDhw.shape[0], *z_BDhw.shape[2:]))
    return at_least_float32(z_BDhw).movedim(1, -1).flatten(0, -2), grid


def codes_to_grid(rows_ND: Tensor, shape: torch.Size) -> Tensor:
    """Rows (N, D) back to (B, D, h, w), where `shape` is (B, h, w)."""
    return rows_ND.unflatten(0, shape).movedim(-1, 1)
