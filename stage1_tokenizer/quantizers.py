"""Quantizers: latents to codes, with one protocol for all kinds.

Legend: B batch, D code dimension, h w latent grid, N positions (B·h·w), K codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config import QuantizerConfig
from stage1_tokenizer.reduce import all_sum, at_least_float32, world

TILE = 1024
"""Rows of latents, and of codes, whose distances are held at once in the search: a tile stays in a core's cache."""


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


@torch.no_grad()
def nearest_code(z_ND: Tensor, code_KD: Tensor) -> Tensor:
    """Index of the closest code, idx_N int64 in [0, K), the lowest where several are. (van den Oord et al. 2017, eq. 1)

    ‖z − e‖² is compared as ‖e‖² − 2 z·e, tile by tile: never more than TILE² distances are held. Raises ValueError
    unless both are of one type, float32 or float64, and of the same D.
    """
    if z_ND.dtype != code_KD.dtype or z_ND.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"latents are {z_ND.dtype} and codes {code_KD.dtype}: give both as float32")
    if z_ND.shape[1] != code_KD.shape[1]:
        raise ValueError(f"latents have {z_ND.shape[1]} channels and codes {code_KD.shape[1]}: they must agree")
    half_K = code_KD.square().sum(1) / 2
    idx_N = torch.empty(len(z_ND), dtype=torch.int64, device=z_ND.device)
    for first in range(0, len(z_ND), TILE):
        rows = z_ND[first : first + TILE]
        best = rows.new_full((len(rows),), torch.inf)
        where = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for start in range(0, len(code_KD), TILE):
            tile = slice(start, start + TILE)
            low, index = torch.addmm(half_K[tile], rows, code_KD[tile].T, alpha=-1).min(dim=1)
            better = low < best
            where = torch.where(better, index + start, where)
            best = torch.where(better, low, best)
        idx_N[first : first + TILE] = where
    return idx_N


def codes_to_grid(rows_ND: Tensor, shape: torch.Size) -> Tensor:
    """Rows (N, D) back to (B, D, h, w), where `shape` is (B, h, w)."""
    return rows_ND.unflatten(0, shape).movedim(-1, 1)


class Statistics(nn.Module):
    """What a codebook remembers of training: use counts and moving averages. Not needed to encode or decode.

    A state_dict without it may be loaded (a released or foreign codebook): the codes are then not drawn anew.
    """

    def __init__(self, codebook_size: int, code_dim: int, *, averages: bool):
        super().__init__()
        self.steps, self.drawn = 0, False
        self.register_buffer("used_K", torch.zeros(codebook_size, dtype=torch.int64))
        self.register_buffer("share_K", torch.ones(codebook_size) if averages else None)
        self.register_buffer("sum_KD", torch.zeros(codebook_size, code_dim) if averages else None)
        self.used_K: Tensor
        self.share_K: Tensor | None
        self.sum_KD: Tensor | None

    def get_extra_state(self) -> Tensor:
        """The number of training steps taken."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the number of steps."""
        self.steps = int(state)
        self.drawn = self.steps > 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *others)
        else:
            self.steps, self.drawn = 0, True


class VectorQuantizer(Quantizer):
    """The nearest entry of a learned codebook (van den Oord et al. 2017), with a straight-through gradient.

    In training every rank must call forward alike: codes' statistics and revival come from the global batch.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.codebook_size = config.codebook_size
        self.input_channels = self.latent_channels = config.code_dim
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        averages = config.learning == "moving_average"
        self.embedding.weight.requires_grad_(not averages)
        self.statistics = Statistics(config.codebook_size, config.code_dim, averages=averages)

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, h, w), and the losses `commitment` and, learned by gradient, `codebook`."""
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z_ND = self._scaled(at_least_float32(z_BDhw).movedim(1, -1).flatten(0, -2))
            if self.training:
                self._revive(z_ND.detach())
            idx_N = nearest_code(z_ND.detach(), self._scaled(self.embedding.weight.detach()).to(z_ND.dtype))
            e_ND = self._rows(idx_N)
            losses = self._losses(z_ND, e_ND)
            if self.training:
                self._count(z_ND.detach(), idx_N)
            # z − z is exactly 0, so that the decoder sees in training the very values that embed gives.
            latents_ND = e_ND.detach() + (z_ND - z_ND.detach())
        grid = torch.Size((z_BDhw.shape[0], *z_BDhw.shape[2:]))
        return Quantized(codes_to_grid(latents_ND, grid), idx_N.view(grid), losses)

    def embed(self, idx_Bhw: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        return codes_to_grid(self._rows(idx_Bhw.flatten()), idx_Bhw.shape)

    def _scaled(self, rows_ND: Tensor) -> Tensor:
        return F.normalize(rows_ND, dim=1) if self.config.l2_normalise else rows_ND

    def _rows(self, idx_N: Tensor) -> Tensor:
        return self._scaled(self.embedding(idx_N))

    def _losses(self, z_ND: Tensor, e_ND: Tensor) -> dict[str, Tensor]:
        """‖sg[z] − e‖² and β‖z − sg[e]‖² (eq. 3), each a mean over all elements; `legacy` puts β on the other."""
        beta = self.config.commitment
        paper = self.config.beta_placement == "paper"
        losses = {"commitment": (beta if paper else 1.0) * F.mse_loss(z_ND, e_ND.detach())}
        if self.config.learning == "gradient":
            losses["codebook"] = (1.0 if paper else beta) * F.mse_loss(e_ND, z_ND.detach())
        return losses

    @torch.no_grad()
    def _count(self, z_ND: Tensor, idx_N: Tensor) -> None:
        """Count uses over all ranks; learned by moving average, move the codes (van den Oord et al. 2017, app. A.1)."""
        state, size = self.statistics, self.codebook_size
        state.steps += 1
        count_K = all_sum(torch.bincount(idx_N, minlength=size))
        state.used_K += count_K
        if state.share_K is None or state.sum_KD is None:
            return
        # The embedding's backward is the sum by code, and unlike index_add_ it has the same bits each time on a GPU.
        sum_KD = all_sum(torch.ops.aten.embedding_dense_backward(z_ND, idx_N, size, -1, False))
        if state.steps == 1:
            state.sum_KD.copy_(self.embedding.weight)
        state.share_K.lerp_(count_K.to(state.share_K.dtype), 1 - self.config.decay)
        state.sum_KD.lerp_(sum_KD.to(state.sum_KD.dtype), 1 - self.config.decay)
        moved_KD = self._scaled(state.sum_KD / state.share_K[:, None])
        self.embedding.weight.copy_(torch.where((count_K > 0)[:, None], moved_KD, self.embedding.weight))

    @torch.no_grad()
    def _revive(self, z_ND: Tensor) -> None:
        """Now and then, move codes that were not used since to vectors of the global batch, the same on every rank."""
        state, every = self.statistics, self.config.revive_after
        first = self.config.start == "batch" and not state.drawn
        state.drawn = True
        if not first and not (every and state.steps and state.steps % every == 0):
            return
        dead_K1 = (state.used_K == 0)[:, None]
        drawn_KD = draw_rows(z_ND, self.codebook_size, seed=state.steps).to(self.embedding.weight.dtype)
        self.embedding.weight.copy_(torch.where(dead_K1, drawn_KD, self.embedding.weight))
        if state.share_K is not None and state.sum_KD is not None and not first:
            state.share_K.copy_(torch.where(dead_K1[:, 0], 1.0, state.share_K))
            state.sum_KD.copy_(torch.where(dead_K1, drawn_KD, state.sum_KD))
        state.used_K.zero_()


def draw_rows(z_ND: Tensor, count: int, *, seed: int) -> Tensor:
    """`count` rows of the global batch (all ranks' rows, by rank), a function of it and the seed, on every rank.

    Rows are drawn without repetition as long as there are enough. Every rank must hold as many rows.
    """
    rank, ranks = world()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(z_ND) * ranks, generator=generator)
    chosen = order.repeat(-(-count // len(order)))[:count].to(z_ND.device) - rank * len(z_ND)
    mine = (chosen >= 0) & (chosen < len(z_ND))
    return all_sum(torch.where(mine[:, None], z_ND[chosen.clamp(0, len(z_ND) - 1)], 0.0))


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


KINDS: dict[str, Callable[[QuantizerConfig], Quantizer]] = {"vq": VectorQuantizer, "gaussian": Gaussian}
"""Every kind of quantizer, by its name in the configuration."""


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that `config.kind` names."""
    return KINDS[config.kind](config)
