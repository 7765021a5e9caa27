"""Lookup-free and binary spherical quantization: the signs of the channels are the code.

Legend: L bits of a code (channels), N positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.quantizers.base import Counter, RowQuantizer
from stage1_tokenizer.quantizers.entropy import annealed_weight, binary_entropies, weighted
from stage1_tokenizer.quantizers.gradients import straight_through
from stage1_tokenizer.quantizers.nearby import nearby_levels


class LookupFreeQuantizer(RowQuantizer):
    """LFQ: q(z) = sign(z) in {−1, 1}^L (Yu et al. 2023, MAGVIT-v2, eq. 3), with its entropy term (eq. 5).

    The first channel is the most significant bit. The probability of code c is proportional to
    exp(−‖z − c‖²/temperature), which makes the bits independent: σ(4 z c / temperature) each.
    """

    bit_L: Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        bits = config.codebook_size.bit_length() - 1
        self.input_channels = self.latent_channels = bits
        self.size = 1.0
        self.register_buffer("bit_L", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)
        self.statistics = Counter()

    def begin(self, positions: int) -> None:
        """Count the step, with the weight of its entropy term."""
        self.statistics.begin(annealed_weight(self.config, self.statistics.steps))

    def quantize(self, z_NL: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents, codes, and the losses `commitment` (MSE to sg[q(z)]) and `entropy`."""
        z_NL = self._prepared(z_NL)
        positive_NL = z_NL.detach() > 0
        e_NL = self._signs(positive_NL, z_NL.dtype)
        losses = {"commitment": self.config.commitment * F.mse_loss(z_NL, e_NL)}
        if self.config.entropy_weight:
            logit_NL = 4 * self.size / self.config.entropy_softness * z_NL
            entropies = binary_entropies(logit_NL, self.config.entropy_bits)
            losses["entropy"] = weighted(self.config, entropies, self.statistics, self.training)
        return straight_through(z_NL, e_NL), self.search(z_NL), losses

    def rows(self, idx_N: Tensor) -> Tensor:
        """Code vectors (N, L)."""
        return self._signs((idx_N[:, None] & self.bit_L) != 0, at_least_float32(self.unit).dtype)

    def search(self, rows_NL: Tensor) -> Tensor:
        """Codes (N,) of the signs."""
        return ((rows_NL > 0) * self.bit_L).sum(1)

    def nearby(self, codes: Tensor, ranks: Tensor, nearest: int) -> Tensor:
        """The codes with the fewest changed bits."""
        bit_NL = ((codes.flatten()[:, None] & self.bit_L) != 0).long()
        moved_NL = nearby_levels([2] * self.input_channels, bit_NL, ranks.flatten(), nearest)
        return self.search(moved_NL).view(codes.shape)

    def _prepared(self, rows_NL: Tensor) -> Tensor:
        return rows_NL

    def _signs(self, positive_NL: Tensor, dtype: torch.dtype) -> Tensor:
        return (positive_NL * 2 - 1).to(dtype) * self.size


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """BSQ: latents of length 1, q(u) = sign(u)/√L (Zhao et al. 2024, section 4), with the entropy term of LFQ."""

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        self.size = self.input_channels**-0.5

    def _prepared(self, rows_NL: Tensor) -> Tensor:
        return F.normalize(rows_NL, dim=1)
