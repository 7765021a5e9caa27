"""Patch discriminator (being written): the signatures."""

from __future__ import annotations

from torch import Tensor, nn

from stage1_tokenizer.config import AdversarialConfig


class Discriminator(nn.Module):
    """Patch discriminator (Isola et al. 2017)."""

    def __init__(self, config: AdversarialConfig, in_channels: int, spatial_dims: int = 2):
        super().__init__()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of patches (B, 1, h, w)."""
        raise NotImplementedError
