"""Several codebooks at each position, side by side; and what residual quantization (residual.py) has of it.

Legend: B batch, D code dimension, h w latent grid, N positions (B·h·w), G codebooks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.quantizers.base import Quantized, Quantizer, codes_to_grid, exactly, grid_to_rows
from stage1_tokenizer.quantizers.vq import VectorQuantizer

Parts = tuple[Tensor, list[Tensor], list[dict[str, Tensor]]]
"""Latents (N, D), and the codes (N,) and losses of each codebook."""


class SeveralCodebooks(Quantizer):
    """The base of residual and product quantization: a list of codebooks, codes (B, G, h, w), mean losses."""

    def __init__(
        self, config: QuantizerConfig, code_dim: int, kind: type[VectorQuantizer] = VectorQuantizer, **changes: Any
    ):
        """`changes` are to the settings of each codebook."""
        super().__init__(config)
        self.codebooks = config.codebooks
        changes |= {"projections": "none", "codebook_dropout": 0.0, "codebook_dropout_from": 1, "strides": []}
        one = replace(config, kind="vq", code_dim=code_dim, **changes)
        self.parts = nn.ModuleList(kind(one) for _ in range(config.codebooks))
        self.strides = [1] * config.codebooks  # positions that share a code

    def begin(self, positions: int) -> None:
        """Begin a training step of each codebook."""
        for book, stride in zip(self.books, self.strides, strict=True):
            book.begin(positions // stride)
        self.starting = any(book.starting for book in self.books)
        self.reviving = any(book.reviving for book in self.books)

    @property
    def books(self) -> list[VectorQuantizer]:
        """The codebooks, in the order of their codes."""
        return cast("list[VectorQuantizer]", list(self.parts))

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, G, h, w) and the losses of `vq`."""
        with exactly(z_BDhw):
            z_ND, grid = grid_to_rows(z_BDhw)
            latents_ND, codes, losses = self._quantize(z_ND, len(z_BDhw))
        idx_BGhw = torch.stack([idx_N.view(grid) for idx_N in codes], dim=1)
        means = {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}
        return Quantized(self.as_weights(codes_to_grid(latents_ND, grid)), idx_BGhw, means)

    def vectors(self) -> list[Tensor]:
        """Those of each codebook."""
        return [book.compared() for book in self.books]

    def nearby(self, codes: Tensor, ranks: Tensor, nearest: int) -> Tensor:
        """The nearest codes, each in its own codebook."""
        each = zip(self.books, codes.unbind(1), ranks.unbind(1), strict=True)
        return torch.stack([book.nearby(idx, rank, nearest) for book, idx, rank in each], dim=1)

    def _quantize(self, z_ND: Tensor, samples: int) -> Parts:
        """Rows of so many samples, one after the other."""
        raise NotImplementedError


class ProductQuantizer(SeveralCodebooks):
    """Each codebook quantizes its share of the channels (Jégou et al. 2011; UniTok, Ma et al. 2025)."""

    def __init__(self, config: QuantizerConfig):
        super().__init__(config, config.code_dim // config.codebooks)

    def embed(self, idx_BGhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        with exactly(idx_BGhw):
            rows = [book.rows(idx_Bhw.flatten()) for book, idx_Bhw in zip(self.books, idx_BGhw.unbind(1), strict=True)]
            return self.as_weights(codes_to_grid(torch.cat(rows, dim=1), idx_BGhw[:, 0].shape))

    def _quantize(self, z_ND: Tensor, samples: int) -> Parts:
        shares = zip(self.books, z_ND.chunk(self.codebooks, dim=1), strict=True)
        latents, codes, losses = zip(*(book.quantize(part_Nd) for book, part_Nd in shares), strict=True)
        return torch.cat(latents, dim=1), list(codes), list(losses)

    def nearest(self, latents_BDhw: Tensor) -> Tensor:
        """Codes (B, G, h, w) of latents from `embed`."""
        parts = latents_BDhw.chunk(self.codebooks, dim=1)
        return torch.stack([book.nearest(part) for book, part in zip(self.books, parts, strict=True)], dim=1)
