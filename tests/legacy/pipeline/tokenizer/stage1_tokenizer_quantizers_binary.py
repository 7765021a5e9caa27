# Made from stage1_tokenizer.quantizers.binary of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import Quantizer
from torch import Tensor
import torch
from .stage1_tokenizer_quantizers_base import Counter
from .stage1_tokenizer_quantizers_base import grid_to_rows
import torch.nn.functional as F
from .stage1_tokenizer_quantizers_entropy import binary_entropies
from .stage1_tokenizer_quantizers_entropy import weighted
from .stage1_tokenizer_quantizers_straight import straight_through
from .stage1_tokenizer_quantizers_base import Quantized
from .stage1_tokenizer_quantizers_base import codes_to_grid


class LookupFreeQuantizer(Quantizer):
    """LFQ: q(z) = sign(z) in {−1, 1}^L (Yu et al. 2023, MAGVIT-v2, eq. 3), with its entropy term (eq. 5).

    The first channel is the highest bit of a code. A code's probability is taken as exp(−‖z − c‖²/temperature) over its
    sum, which makes the bits independent: σ(4 z c / temperature) each.
    """

    bit_L: Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        bits = config.codebook_size.bit_length() - 1
        self.input_channels = self.latent_channels = bits
        self.size = 1.0
        self.register_buffer("bit_L", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)
        self.statistics = Counter()

    def forward(self, z_BLhw: Tensor) -> Quantized:
        """Latents (B, L, h, w), codes (B, h, w), and the losses `commitment` (MSE to sg[q(z)]) and `entropy`."""
        with torch.autocast(z_BLhw.device.type, enabled=False):
            rows_NL, grid = grid_to_rows(z_BLhw)
            z_NL = self._prepared(rows_NL)
            positive_NL = z_NL.detach() > 0
            e_NL = self._signs(positive_NL, z_NL.dtype)
            losses = {"commitment": self.config.commitment * F.mse_loss(z_NL, e_NL)}
            if self.config.entropy_weight:
                logit_NL = 4 * self.size / self.config.entropy_softness * z_NL
                entropies = binary_entropies(logit_NL, self.config.entropy_bits)
                losses["entropy"] = weighted(self.config, entropies, self.statistics.steps)
            if self.training:
                self.statistics.steps += 1
            latents_NL = straight_through(z_NL, e_NL)
        return Quantized(codes_to_grid(latents_NL, grid), (positive_NL * self.bit_L).sum(1).view(grid), losses)

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, L, h, w)."""
        positive_NL = (idx_Bhw.flatten()[:, None] & self.bit_L) != 0
        return codes_to_grid(self._signs(positive_NL, torch.get_default_dtype()), idx_Bhw.shape)

    def nearest(self, latents_BLhw: Tensor) -> Tensor:
        """Codes (B, h, w) of latents that `embed` gave."""
        rows_NL, grid = grid_to_rows(latents_BLhw)
        return ((rows_NL > 0) * self.bit_L).sum(1).view(grid)

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
