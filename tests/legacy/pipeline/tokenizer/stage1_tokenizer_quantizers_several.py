# Made from stage1_tokenizer.quantizers.several of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import Quantizer
from dataclasses import replace
from torch import nn
from .stage1_tokenizer_quantizers_vector import VectorQuantizer
from typing import cast
import torch
from .stage1_tokenizer_quantizers_base import Quantized
from .stage1_tokenizer_quantizers_base import codes_to_grid
from torch import Tensor
from .stage1_tokenizer_quantizers_base import grid_to_rows
from .stage1_tokenizer_quantizers_straight import GRADIENTS


class _SeveralCodebooks(Quantizer):
    """What residual and product quantization share: a list of codebooks, codes (B, G, h, w), losses as means."""

    def __init__(self, config: QuantizerConfig, code_dim: int):
        super().__init__()
        self.config = config
        self.codebook_size, self.codebooks = config.codebook_size, config.codebooks
        self.input_channels = self.latent_channels = config.code_dim
        one = replace(config, kind="vq", code_dim=code_dim)
        self.parts = nn.ModuleList(VectorQuantizer(one) for _ in range(config.codebooks))

    @property
    def books(self) -> list[VectorQuantizer]:
        """The codebooks, in the order of their codes."""
        return cast("list[VectorQuantizer]", list(self.parts))

    def _result(
        self, latents_ND: Tensor, idx: list[Tensor], losses: list[dict[str, Tensor]], grid: torch.Size
    ) -> Quantized:
        idx_BGhw = torch.stack([idx_N.view(grid) for idx_N in idx], dim=1)
        means = {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}
        return Quantized(codes_to_grid(latents_ND, grid), idx_BGhw, means)

    @staticmethod
    def _split(idx_BGhw: Tensor) -> tuple[list[Tensor], torch.Size]:
        return [idx_Bhw.flatten() for idx_Bhw in idx_BGhw.unbind(1)], idx_BGhw[:, 0].shape


class ResidualQuantizer(_SeveralCodebooks):
    """Each codebook quantizes what those before it left over (Zeghidour et al. 2021, algorithm 1; Lee et al. 2022).

    r_0 = z, k_g = nearest(r_{g−1}), r_g = r_{g−1} − e(k_g); the latents are Σ e(k_g). Each codebook's losses are those
    of `vq` on its own remainder, and the gradient passes the sum once.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__(config, config.code_dim)

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, G, h, w) and `vq`'s losses."""
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_ND, grid = grid_to_rows(z_BDhw)
            rest_ND, vectors, codes, losses = z_ND, [], [], []
            for book in self.books:
                _, e_ND, idx_N, loss = book.choose(rest_ND)
                rest_ND = rest_ND - e_ND.detach()
                vectors.append(e_ND)
                codes.append(idx_N)
                losses.append(loss)
            latents_ND = GRADIENTS[self.config.gradient](z_ND, _total(vectors))
        return self._result(latents_ND, codes, losses, grid)

    def embed(self, idx_BGhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        codes, grid = self._split(idx_BGhw)
        return codes_to_grid(_total([book.rows(idx_N) for book, idx_N in zip(self.books, codes, strict=True)]), grid)


def _total(vectors: list[Tensor]) -> Tensor:
    """The sum, always in the same order, so that embed gives the bits of forward."""
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total


class ProductQuantizer(_SeveralCodebooks):
    """Each codebook quantizes its share of the channels (Jégou et al. 2011; UniTok, Ma et al. 2025)."""

    def __init__(self, config: QuantizerConfig):
        super().__init__(config, config.code_dim // config.codebooks)

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, G, h, w) and `vq`'s losses."""
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_ND, grid = grid_to_rows(z_BDhw)
            latents, codes, losses = [], [], []
            for book, part in zip(self.books, z_ND.chunk(self.codebooks, dim=1), strict=True):
                part, e_Nd, idx_N, loss = book.choose(part)
                latents.append(GRADIENTS[self.config.gradient](part, e_Nd))
                codes.append(idx_N)
                losses.append(loss)
        return self._result(torch.cat(latents, dim=1), codes, losses, grid)

    def embed(self, idx_BGhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        codes, grid = self._split(idx_BGhw)
        rows = [book.rows(idx_N) for book, idx_N in zip(self.books, codes, strict=True)]
        return codes_to_grid(torch.cat(rows, dim=1), grid)

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """Codes (B, G, h, w) of latents that `embed` gave."""
        parts = latents_BDhw.chunk(self.codebooks, dim=1)
        return torch.stack([book.nearest(part) for book, part in zip(self.books, parts, strict=True)], dim=1)
