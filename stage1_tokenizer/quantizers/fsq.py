"""Finite scalar quantization: each channel is rounded to one of a few levels; no codebook is learned.

Legend: D channels (one for each number of levels), N positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.quantizers.base import RowQuantizer
from stage1_tokenizer.quantizers.gradients import straight_through
from stage1_tokenizer.quantizers.nearby import nearby_levels


class FiniteScalarQuantizer(RowQuantizer):
    """FSQ (Mentzer et al. 2023, section 3.1, and the listing of its appendix A): no losses, every code reachable.

    The first channel is the least significant digit of a code. Latents lie in [-1, 1]; 2 levels are -1 and 1, by sign:
    the published curve for even numbers would have them at -1 and 0, with its steep part far from 0.
    """

    level_D: Tensor
    basis_D: Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        levels = list(config.levels)
        self.codebook_size = math.prod(levels)
        self.input_channels = self.latent_channels = len(levels)
        self.register_buffer("level_D", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:number]) for number in range(len(levels))]
        self.register_buffer("basis_D", torch.tensor(basis), persistent=False)

    def quantize(self, z_ND: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents and codes; no losses."""
        bounded_ND, half_D = self._bounded(z_ND), self.level_D // 2
        whole_ND, (middle_D, unit_D) = bounded_ND.detach().round(), self._middle()
        soft_ND, hard_ND = ((x_ND - (middle_D - half_D)) / unit_D for x_ND in (bounded_ND, whole_ND))
        return straight_through(soft_ND, hard_ND), self._index(whole_ND + half_D), {}

    def rows(self, idx_N: Tensor) -> Tensor:
        """Code vectors (N, D)."""
        digit_ND, (middle_D, unit_D) = idx_N[:, None] // self.basis_D % self.level_D, self._middle()
        return (digit_ND.to(at_least_float32(self.unit).dtype) - middle_D) / unit_D

    def search(self, rows_ND: Tensor) -> Tensor:
        """Codes (N,) of the nearest levels."""
        middle_D, unit_D = self._middle()
        return self._index((rows_ND * unit_D + middle_D).round().clamp_min(0).minimum(self.level_D - 1))

    def nearby(self, codes: Tensor, ranks: Tensor, nearest: int) -> Tensor:
        """The codes with the fewest changed levels."""
        digit_ND = codes.flatten()[:, None] // self.basis_D % self.level_D
        moved_ND = nearby_levels(self.config.levels, digit_ND, ranks.flatten(), nearest)
        return self._index(moved_ND).view(codes.shape)

    def _bounded(self, z_ND: Tensor) -> Tensor:
        """A curve like tanh whose values round to L integers; for even L, one more of them is negative."""
        half_D = (self.level_D - 1) * (1 + 1e-3) / 2
        offset_D = (self.level_D % 2 == 0) * 0.5
        start_D = torch.atanh(offset_D / half_D).masked_fill(self.level_D == 2, 0.0)
        return torch.tanh(z_ND + start_D) * half_D - offset_D

    def _middle(self) -> tuple[Tensor, Tensor]:
        """The digit whose latent is 0, and digits from there to a latent of 1: half of the levels, or of 2 levels ½."""
        half_D = torch.where(self.level_D == 2, 0.5, self.level_D // 2)
        return half_D, half_D

    def _index(self, digit_ND: Tensor) -> Tensor:
        return (digit_ND.long() * self.basis_D).sum(1)
