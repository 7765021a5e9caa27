"""The latents of a variational autoencoder, without codes."""

from __future__ import annotations

import torch
from torch import Tensor

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.quantizers.base import Quantized, Quantizer


class Gaussian(Quantizer):
    """Samples of N(mean, exp(logvar)) instead of codes (Kingma & Welling 2014)."""

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        self.codebook_size, self.input_channels = 0, 2 * config.code_dim

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Means and log-variances (B, 2·D, h, w) to a sample (the mean outside training) and the loss `kl`."""
        mean, logvar = at_least_float32(z_BDhw).chunk(2, dim=1)
        logvar = logvar.clamp(-30.0, 20.0)
        latents = mean + torch.randn_like(mean) * (logvar / 2).exp() if self.training else mean
        kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        return Quantized(self.as_weights(latents), None, {"kl": self.config.kl_weight * kl})

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Raises TypeError: a VAE has no codes."""
        raise TypeError("kind=gaussian has no codes: use the latents themselves, or another quantizer")
