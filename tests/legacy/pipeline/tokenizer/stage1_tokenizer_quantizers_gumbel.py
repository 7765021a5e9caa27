# Made from stage1_tokenizer.quantizers.gumbel of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import Quantizer
from torch import nn
from .stage1_tokenizer_quantizers_base import Counter
import math
import torch
from .stage1_tokenizer_quantizers_base import grid_to_rows
from .stage1_tokenizer_quantizers_straight import one_hot_through
from .stage1_tokenizer_quantizers_base import Quantized
from .stage1_tokenizer_quantizers_base import codes_to_grid
from .stage1_tokenizer_quantizers_search import nearest_code
from torch import Tensor


class GumbelQuantizer(Quantizer):
    """Draws a code with the probabilities that a linear layer gives (Jang et al. 2017, straight-through).

    In training the code is drawn and its gradient is the softmax's at the present temperature; else it is the likeliest
    one. The loss `kl` is the divergence of the probabilities from uniform ones (Ramesh et al. 2021).
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.input_channels = self.latent_channels = config.code_dim
        self.proj = nn.Linear(config.code_dim, config.codebook_size)
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        self.statistics = Counter()

    @property
    def temperature(self) -> float:
        """From `temperature` to `temperature_final` along a cosine within `anneal` steps."""
        first, last, steps = self.config.temperature, self.config.temperature_final, self.config.anneal
        if not steps:
            return first
        done = min(1.0, self.statistics.steps / steps)
        return last + (first - last) * (1 + math.cos(math.pi * done)) / 2

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, h, w) and the loss `kl`."""
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_ND, grid = grid_to_rows(z_BDhw)
            logit_NK = self.proj(z_ND)
            log_p_NK = logit_NK.log_softmax(1)
            kl = (log_p_NK.exp() * (log_p_NK + math.log(self.codebook_size))).sum(1).mean()
            if self.training:
                noise_NK = -torch.empty_like(logit_NK).exponential_().log()
                drawn_NK = (logit_NK + noise_NK) / self.temperature
                idx_N = drawn_NK.detach().argmax(1)
                e_ND = one_hot_through(drawn_NK.softmax(1), idx_N) @ self.embedding.weight
                e_ND = self.embedding(idx_N).detach() + (e_ND - e_ND.detach())
                self.statistics.steps += 1
            else:
                idx_N = logit_NK.argmax(1)
                e_ND = self.embedding(idx_N)
        return Quantized(codes_to_grid(e_ND, grid), idx_N.view(grid), {"kl": self.config.kl_weight * kl})

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        return codes_to_grid(self.embedding(idx_Bhw.flatten()), idx_Bhw.shape)

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """Codes (B, h, w) of latents that `embed` gave."""
        rows_ND, grid = grid_to_rows(latents_BDhw)
        return nearest_code(rows_ND.detach(), self.embedding.weight.detach()).view(grid)
