"""Quantizers (being written): the signatures."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from stage1_tokenizer.config import QuantizerConfig


@dataclass
class Quantized:
    """What a quantizer makes of latents."""

    latents: Tensor
    """What the decoder gets, (B, D, h, w): in training with a gradient to the input."""
    codes: Tensor | None
    """Indices (B, h, w), int64 in [0, K); None where there are none (gaussian)."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Weighted scalar terms to be minimised, by name: commitment, codebook, kl."""


class Quantizer(nn.Module):
    """The protocol of all quantizers."""

    codebook_size: int
    """K, or 0 where there are no codes."""
    input_channels: int
    """Channels that forward takes: what quant_conv must give."""
    latent_channels: int
    """Channels of the latents: what post_quant_conv takes."""

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents, codes and losses of (B, input_channels, h, w)."""
        raise NotImplementedError

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w): exactly what forward gave with them."""
        raise NotImplementedError


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that `config.kind` names."""
    raise NotImplementedError
