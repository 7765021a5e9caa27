# Made from stage1_tokenizer.quantizers.backpropagation of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import Quantizer
from torch import nn
from .stage1_tokenizer_quantizers_base import Counter
import torch
from .stage1_tokenizer_quantizers_base import grid_to_rows
from .stage1_tokenizer_quantizers_straight import one_hot_through
import torch.nn.functional as F
from .stage1_tokenizer_quantizers_entropy import soft_entropies
from .stage1_tokenizer_quantizers_entropy import weighted
from .stage1_tokenizer_quantizers_base import Quantized
from .stage1_tokenizer_quantizers_base import codes_to_grid
from .stage1_tokenizer_quantizers_search import nearest_code
from torch import Tensor


class IndexBackpropagationQuantizer(Quantizer):
    """IBQ (Shi et al. 2024): one_hot(argmax p) − sg[p] + p times the codebook, p = softmax(z·e).

    So the decoder's gradient reaches the latents and all codes through p. Losses: `codebook` is ‖z_q − z‖² of that
    product, with gradients to everything, and β‖e − sg[z]‖²; `commitment` is ‖z − sg[e]‖²; `entropy` is that of p.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.input_channels = self.latent_channels = config.code_dim
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        self.statistics = Counter()

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, h, w) and the losses."""
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_ND, grid = grid_to_rows(z_BDhw)
            z_ND, code_KD = self._scaled(z_ND), self._scaled(self.embedding.weight)
            logit_NK = z_ND @ code_KD.T
            idx_N = logit_NK.detach().argmax(1)
            e_ND = self._scaled(self.embedding(idx_N))
            through_ND = one_hot_through(logit_NK.softmax(1), idx_N) @ code_KD
            codebook = F.mse_loss(through_ND, z_ND) + self.config.commitment * F.mse_loss(e_ND, z_ND.detach())
            losses = {"codebook": codebook, "commitment": F.mse_loss(z_ND, e_ND.detach())}
            if self.config.entropy_weight:
                entropies = soft_entropies(logit_NK / self.config.entropy_softness)
                losses["entropy"] = weighted(self.config, entropies, self.statistics.steps)
            if self.training:
                self.statistics.steps += 1
            latents_ND = e_ND.detach() + (through_ND - through_ND.detach())
        return Quantized(codes_to_grid(latents_ND, grid), idx_N.view(grid), losses)

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        return codes_to_grid(self._scaled(self.embedding(idx_Bhw.flatten())), idx_Bhw.shape)

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """Codes (B, h, w) of latents that `embed` gave."""
        rows_ND, grid = grid_to_rows(latents_BDhw)
        return nearest_code(rows_ND.detach(), self._scaled(self.embedding.weight.detach())).view(grid)

    def _scaled(self, rows_ND: Tensor) -> Tensor:
        return F.normalize(rows_ND, dim=1) if self.config.l2_normalise else rows_ND
