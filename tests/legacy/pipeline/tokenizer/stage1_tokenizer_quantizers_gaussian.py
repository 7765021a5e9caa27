# Made from stage1_tokenizer.quantizers.gaussian of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import Quantizer
from .stage1_tokenizer_reduce import at_least_float32
import torch
from .stage1_tokenizer_quantizers_base import Quantized
from torch import Tensor


class Gaussian(Quantizer):
    """No codes: the latents of a variational autoencoder (Kingma & Welling 2014), N(mean, exp(logvar))."""

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.codebook_size = 0
        self.input_channels, self.latent_channels = 2 * config.code_dim, config.code_dim

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Means and log-variances (B, 2·D, h, w) to a sample (the mean outside training) and the loss `kl`."""
        mean, logvar = at_least_float32(z_BDhw).chunk(2, dim=1)
        logvar = logvar.clamp(-30.0, 20.0)
        latents = mean + torch.randn_like(mean) * (logvar / 2).exp() if self.training else mean
        kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        return Quantized(latents, None, {"kl": self.config.kl_weight * kl})

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Raises TypeError: a VAE has no codes."""
        raise TypeError("kind=gaussian has no codes: use the latents themselves, or another quantizer")
