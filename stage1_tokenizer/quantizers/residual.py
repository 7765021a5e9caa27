"""Residual quantization: each codebook takes what the ones before it left.

Legend: B batch, D code dimension, C latent channels, h w latent grid (t frames of a sound), N positions (B·h·w),
G codebooks, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import at_least_float32, widened
from stage1_tokenizer.quantizers.base import codes_to_grid, exactly
from stage1_tokenizer.quantizers.gradients import GRADIENTS
from stage1_tokenizer.quantizers.nearest import nearest_code
from stage1_tokenizer.quantizers.product import Parts, SeveralCodebooks
from stage1_tokenizer.quantizers.vq import VectorQuantizer


class ResidualQuantizer(SeveralCodebooks):
    """Each codebook quantizes the residual of the previous ones (Zeghidour et al. 2021, algorithm 1; Lee et al. 2022).

    r_0 = z, k_g = nearest(r_{g−1}), r_g = r_{g−1} − e(k_g); the latents are Σ e(k_g). Each codebook's losses are those
    of `vq` on its own residual; the gradient estimator is applied once, to the sum. The first g codes of a position are
    codes too, of a coarser picture or sound.

    - `projections=each` (Kumar et al. 2023, DAC): e(k_g) = W'_g c(k_g), nearest to W_g r_{g−1} by direction, with a
      gradient estimator for each; residuals carry gradients. `split` (Défossez et al. 2024, Mimi): the first codebook
      has projections of its own; the others quantize another projection of z, not what the first one left.
    - `codebook_dropout`: the sum, and the losses, of some training samples end with a drawn codebook.
    - `strides`: codebook g quantizes means over s_g positions of the last axis (Siuzdak et al. 2024, SNAC). Its codes
      are repeated s_g times; of codes that differ within such a run, the first counts.
    """

    def __init__(self, config: QuantizerConfig):
        kind = DirectionQuantizer if config.l2_normalise else VectorQuantizer
        super().__init__(config, config.code_dim, kind, l2_normalise=False)
        count, width = config.codebooks, config.latent_dim
        self.strides = list(config.strides) or self.strides
        self.groups = [range(count)]
        self.maps: nn.ModuleList = nn.ModuleList()
        if config.projections != "none":
            first = [range(1), range(1, count)]
            self.groups = first if config.projections == "split" else [range(g, g + 1) for g in range(count)]
            dim, bias = config.code_dim, config.projections == "each"
            for _ in self.groups:
                both = {"to_codes": nn.Linear(width, dim, bias), "to_latents": nn.Linear(dim, width, bias)}
                self.maps.append(nn.ModuleDict(both))
            self.input_channels = self.latent_channels = width

    def codes_shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """(G, h, w). ValueError unless the strides divide the last axis."""
        step = math.lcm(*self.strides)
        if grid[-1] % step:
            raise ValueError(
                f"{grid[-1]} latents along the last axis are no multiple of {step}, as model.quantizer.strides="
                f"{self.strides} need: pad or crop to {max(grid[-1] // step, 1) * step} times model's stride"
            )
        return super().codes_shape(grid)

    def check_codes(self, shape: Sequence[int], dims: int) -> None:
        """Raise ValueError unless codes of this shape can be embedded: those of the first 1 to G codebooks."""
        fewer = len(shape) == dims + 2 and 1 <= shape[1] <= self.codebooks
        super().check_codes([shape[0], self.codebooks, *shape[2:]] if fewer else shape, dims)
        self.codes_shape(shape[2:])

    def embed(self, idx_BGhw: Tensor) -> Tensor:
        """Codes of the first codebooks, one or more, to latents (B, D, h, w)."""
        there, totals = idx_BGhw.shape[1], []
        with exactly(idx_BGhw):
            for number, group in enumerate(self.groups):
                vectors = [self._vectors(g, idx_BGhw[:, g]) for g in group if g < there]
                if vectors:
                    totals.append(self._mapped(number, "to_latents", added(vectors)))
            return self.as_weights(codes_to_grid(added(totals), idx_BGhw[:, 0].shape))

    def _vectors(self, number: int, idx_Bhw: Tensor) -> Tensor:
        """A codebook's vectors (N, D)."""
        stride = self.strides[number]
        return self.books[number].rows(idx_Bhw.flatten()[::stride]).repeat_interleave(stride, dim=0)

    def _quantize(self, z_NC: Tensor, samples: int) -> Parts:
        codes, losses, totals = [], [], []
        use_N1 = self._used(len(z_NC), samples, z_NC)
        rest_NC = z_NC
        for number, group in enumerate(self.groups):
            inner_ND = self._mapped(number, "to_codes", rest_NC)
            left_ND, vectors = inner_ND, []
            for g in group:
                stride, use = self.strides[g], use_N1[g]
                pooled = left_ND if stride == 1 else left_ND.unflatten(0, (-1, stride)).mean(1)
                _, e, idx, loss = self.books[g].choose(pooled, None if use is None else use[::stride])
                e_ND = e if stride == 1 else e.repeat_interleave(stride, dim=0)
                left_ND = left_ND - e_ND.detach()
                vectors.append(e_ND if use is None or len(group) == 1 else e_ND * use)
                codes.append(idx if stride == 1 else idx.repeat_interleave(stride))
                losses.append(loss)
            sum_ND = GRADIENTS[self.config.gradient](inner_ND, added(vectors))
            total_NC = self._mapped(number, "to_latents", sum_ND)
            rest_NC = rest_NC - total_NC if self.config.projections == "each" else z_NC
            use = use_N1[group[0]]
            totals.append(total_NC if use is None or len(group) > 1 else total_NC * use)
        return added(totals), codes, losses

    def _used(self, positions: int, samples: int, like: Tensor) -> list[Tensor | None]:
        """For each codebook, 1 for positions of samples that use it, else 0, (N, 1); None: all do."""
        count = self.codebooks
        kept_B = self.levels_kept(count, samples, like.device)
        if kept_B is None:
            return [None] * count
        kept_N = kept_B.repeat_interleave(positions // samples)
        return [(kept_N > g).to(like.dtype)[:, None] for g in range(count)]

    def _mapped(self, number: int, which: str, rows: Tensor) -> Tensor:
        """Rows `to_codes` or `to_latents` by a group's projections, if there are any."""
        return widened(cast("nn.ModuleDict", self.maps[number])[which], rows) if self.maps else rows


def added(vectors: list[Tensor]) -> Tensor:
    """The sum, always in the same order, so that embed and forward give the same bits."""
    return reduce(torch.add, vectors)


class DirectionQuantizer(VectorQuantizer):
    """The entry with the nearest direction; vectors keep their lengths, in latents and losses too. (DAC)"""

    def _index(self, z_ND: Tensor) -> Tensor:
        with torch.no_grad():
            code_KD = F.normalize(at_least_float32(self.embedding.weight).to(z_ND.dtype), dim=1)
        return nearest_code(F.normalize(z_ND.detach(), dim=1), code_KD)

    def compared(self) -> Tensor:
        """Directions."""
        return F.normalize(super().compared(), dim=1)
