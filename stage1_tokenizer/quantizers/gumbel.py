"""Codes drawn by the Gumbel-softmax: the quantizer of dVAE and DALL-E.

Legend: D code dimension, N positions, K codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import at_least_float32, product, widened
from stage1_tokenizer.quantizers.base import Counter, RowQuantizer
from stage1_tokenizer.quantizers.gradients import one_hot_through
from stage1_tokenizer.quantizers.nearest import nearest_code


class GumbelQuantizer(RowQuantizer):
    """Draws a code with the probabilities of a linear layer (Jang et al. 2017, straight-through).

    In training, codes are sampled and the gradient is that of the softmax at the current temperature; otherwise the
    most likely code is taken. The loss `kl` is the divergence from the uniform distribution (Ramesh et al. 2021).
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        self.proj = nn.Linear(config.code_dim, config.codebook_size)
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        self.statistics = Counter()

    @property
    def temperature(self) -> float:
        """From `temperature` to `temperature_final` along a cosine over `anneal` steps."""
        first, last, steps = self.config.temperature, self.config.temperature_final, self.config.anneal
        if not steps:
            return first
        done = min(1.0, self.statistics.steps / steps)
        return last + (first - last) * (1 + math.cos(math.pi * done)) / 2

    def begin(self, positions: int) -> None:
        """Count the step, with its temperature."""
        self.statistics.begin(self.temperature)

    def quantize(self, z_ND: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents, codes and the loss `kl`."""
        logit_NK = widened(self.proj, z_ND)
        log_p_NK = logit_NK.log_softmax(1)
        kl = (log_p_NK.exp() * (log_p_NK + math.log(self.codebook_size))).sum(1).mean()
        if self.training:
            noise_NK = -torch.empty_like(logit_NK).exponential_().log()
            drawn_NK = (logit_NK + noise_NK) / self.statistics.annealed.to(logit_NK.dtype)
            idx_N = drawn_NK.detach().argmax(1)
            e_ND = product(one_hot_through(drawn_NK.softmax(1), idx_N), at_least_float32(self.embedding.weight))
            e_ND = self.rows(idx_N).detach() + (e_ND - e_ND.detach())
        else:
            idx_N = logit_NK.argmax(1)
            e_ND = self.rows(idx_N)
        return e_ND, idx_N, {"kl": self.config.kl_weight * kl}

    def rows(self, idx_N: Tensor) -> Tensor:
        """Code vectors (N, D)."""
        return at_least_float32(self.embedding(idx_N))

    def search(self, rows_ND: Tensor) -> Tensor:
        """Codes (N,) nearest to the rows."""
        return nearest_code(rows_ND.detach(), at_least_float32(self.embedding.weight.detach()))
