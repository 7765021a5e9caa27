# Made from stage1_tokenizer.quantizers.scalar of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import Quantizer
from torch import Tensor
import math
import torch
from .stage1_tokenizer_quantizers_base import grid_to_rows
from .stage1_tokenizer_quantizers_straight import straight_through
from .stage1_tokenizer_quantizers_base import Quantized
from .stage1_tokenizer_quantizers_base import codes_to_grid


class FiniteScalarQuantizer(Quantizer):
    """FSQ (Mentzer et al. 2023, section 3.1, and the listing of its appendix A): no losses, all codes in reach.

    The first channel is the lowest digit of a code. Latents lie in [-1, 1].
    """

    level_D: Tensor
    basis_D: Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        levels = list(config.levels)
        self.codebook_size = math.prod(levels)
        self.input_channels = self.latent_channels = len(levels)
        self.register_buffer("level_D", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:number]) for number in range(len(levels))]
        self.register_buffer("basis_D", torch.tensor(basis), persistent=False)

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w) and codes (B, h, w)."""
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_ND, grid = grid_to_rows(z_BDhw)
            bounded_ND = self._bounded(z_ND)
            whole_ND = bounded_ND.detach().round()
            latents_ND = straight_through(bounded_ND / (self.level_D // 2), self._scaled(whole_ND))
            idx_N = self._index(whole_ND)
        return Quantized(codes_to_grid(latents_ND, grid), idx_N.view(grid))

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        digit_ND = idx_Bhw.flatten()[:, None] // self.basis_D % self.level_D
        return codes_to_grid(self._scaled((digit_ND - self.level_D // 2).to(torch.get_default_dtype())), idx_Bhw.shape)

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """Codes (B, h, w) of latents that `embed` gave."""
        rows_ND, grid = grid_to_rows(latents_BDhw)
        half_D = self.level_D // 2
        digit_ND = (rows_ND * half_D + half_D).round().clamp_min(0).minimum(self.level_D - 1)
        return self._index(digit_ND - half_D).view(grid)

    def _bounded(self, z_ND: Tensor) -> Tensor:
        """A curve like tanh with values that round to L whole numbers; for even L, one more of them below 0."""
        half_D = (self.level_D - 1) * (1 + 1e-3) / 2
        offset_D = (self.level_D % 2 == 0) * 0.5
        return torch.tanh(z_ND + torch.atanh(offset_D / half_D)) * half_D - offset_D

    def _scaled(self, whole_ND: Tensor) -> Tensor:
        return whole_ND / (self.level_D // 2)

    def _index(self, whole_ND: Tensor) -> Tensor:
        return ((whole_ND.long() + self.level_D // 2) * self.basis_D).sum(1)
