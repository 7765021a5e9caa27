"""Index backpropagation: every code gets a gradient from every position.

Legend: D code dimension, N positions, K codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import at_least_float32, product
from stage1_tokenizer.quantizers.base import Counter, RowQuantizer
from stage1_tokenizer.quantizers.entropy import annealed_weight, soft_entropies, weighted
from stage1_tokenizer.quantizers.gradients import one_hot_through
from stage1_tokenizer.quantizers.nearest import nearest_code


class IndexBackpropagationQuantizer(RowQuantizer):
    """IBQ (Shi et al. 2024): one_hot(argmax p) − sg[p] + p times the codebook, p = softmax(z·e).

    The decoder's gradient reaches the latents and all codes through p. Losses: `codebook` is ‖z_q − z‖² of that
    product, with gradients to everything, and β‖e − sg[z]‖²; `commitment` is ‖z − sg[e]‖²; `entropy` is that of p.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        self.statistics = Counter()

    def begin(self, positions: int) -> None:
        """Count the step, with the weight of its entropy term."""
        self.statistics.begin(annealed_weight(self.config, self.statistics.steps))

    def quantize(self, z_ND: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents, codes, and the losses `codebook`, `commitment` and `entropy`."""
        z_ND, code_KD = self._scaled(z_ND), self._scaled(at_least_float32(self.embedding.weight))
        logit_NK = product(z_ND, code_KD.T)
        idx_N = logit_NK.detach().argmax(1)
        e_ND = self.rows(idx_N)
        through_ND = product(one_hot_through(logit_NK.softmax(1), idx_N), code_KD)
        codebook = F.mse_loss(through_ND, z_ND) + self.config.commitment * F.mse_loss(e_ND, z_ND.detach())
        losses = {"codebook": codebook, "commitment": F.mse_loss(z_ND, e_ND.detach())}
        if self.config.entropy_weight:
            entropies = soft_entropies(logit_NK / self.config.entropy_softness)
            losses["entropy"] = weighted(self.config, entropies, self.statistics, self.training)
        return e_ND.detach() + (through_ND - through_ND.detach()), idx_N, losses

    def rows(self, idx_N: Tensor) -> Tensor:
        """Code vectors (N, D)."""
        return self._scaled(at_least_float32(self.embedding(idx_N)))

    def search(self, rows_ND: Tensor) -> Tensor:
        """Codes (N,) nearest to the rows."""
        return nearest_code(rows_ND.detach(), self._scaled(at_least_float32(self.embedding.weight.detach())))
