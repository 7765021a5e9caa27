# Made from stage1_tokenizer.quantizers.multiscale of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from .stage1_tokenizer_quantizers_base import Quantizer
from .stage1_tokenizer_quantizers_vector import VectorQuantizer
from torch import nn
from torch import Tensor
import torch
from .stage1_tokenizer_reduce import at_least_float32
import torch.nn.functional as F
from .stage1_tokenizer_quantizers_base import Quantized
from .stage1_tokenizer_quantizers_straight import straight_through
from typing import cast
import numpy as np
from collections.abc import Sequence


class MultiscaleQuantizer(Quantizer):
    """One codebook for a pyramid of residuals (Tian et al. 2024, VAR, algorithms 1 and 2).

    For each scale: what is left, shrunk to s×s by area, becomes its nearest codes; these, enlarged bicubically and
    through a convolution φ, are taken off what is left and added to the latents. Codes (B, N) are those of all scales,
    coarsest first, each row by row. The losses compare the sum after each scale with z, as means over the scales.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.scales = list(config.scales)
        self.codebook_size = config.codebook_size
        self.input_channels = self.latent_channels = config.code_dim
        self.codebook = VectorQuantizer(config)
        self.phi = nn.ModuleList(_Phi(config.code_dim) for _ in range(min(4, len(self.scales))))

    def codes_shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """(N,). ValueError unless the grid is the last scale."""
        if tuple(grid) != (self.scales[-1],) * 2:
            last = self.scales[-1]
            raise ValueError(
                f"a latent grid of {tuple(grid)} is not model.quantizer.scales' last, {last}x{last}: resize the "
                f"picture, or set the last of model.quantizer.scales to the grid"
            )
        return (sum(scale**2 for scale in self.scales),)

    def check_codes(self, shape: Sequence[int], dims: int) -> None:
        """ValueError unless `shape` is (B, N)."""
        (count,) = self.codes_shape((self.scales[-1],) * 2)
        if len(shape) != 2 or shape[1] != count:
            raise ValueError(f"codes of shape {tuple(shape)} are not (batch, {count}): give those of all scales")

    def forward(self, z_BDhw: Tensor) -> Quantized:
        """Latents (B, D, h, w), codes (B, N), and the losses `commitment` and `codebook`."""
        self.codes_shape(z_BDhw.shape[2:])
        with torch.autocast(z_BDhw.device.type, enabled=False):
            z = at_least_float32(z_BDhw)
            rest, total = z.detach(), torch.zeros_like(z)
            if self.training:
                self.codebook.revive(_rows(rest))
            codes, looked_up, commitment, codebook = [], [], [], []
            for number, scale in enumerate(self.scales):
                small = rest if scale == self.scales[-1] else F.interpolate(rest, size=(scale, scale), mode="area")
                idx_N = self.codebook.search(_rows(small))
                looked_up.append(small.flatten(2).transpose(1, 2))
                codes.append(idx_N.view(len(z), -1))
                h = self._enlarged(number, idx_N)
                total, rest = total + h, rest - h.detach()
                commitment.append(F.mse_loss(total.detach(), z))
                codebook.append(F.mse_loss(total, z.detach()))
            idx_BN = torch.cat(codes, dim=1)
            if self.training:
                self.codebook.count(torch.cat(looked_up, dim=1).flatten(0, 1), idx_BN.flatten())
            losses = {
                "commitment": self.config.commitment * torch.stack(commitment).mean(),
                "codebook": torch.stack(codebook).mean(),
            }
        return Quantized(straight_through(z, total).contiguous(), idx_BN, losses)

    def embed(self, idx_BN: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        total = torch.zeros(())
        for number, idx in enumerate(idx_BN.split([scale**2 for scale in self.scales], dim=1)):
            total = self.add_scale(total, number, idx)
        return total.contiguous()

    def add_scale(self, total_BDhw: Tensor, number: int, idx_BM: Tensor) -> Tensor:
        """The latents (B, D, h, w) of the scales up to `number`, from those of the scales before it (first: 0)."""
        h_BDhw = self._enlarged(number, idx_BM.flatten())
        return total_BDhw.to(h_BDhw) + h_BDhw

    def _enlarged(self, number: int, idx_N: Tensor) -> Tensor:
        """φ of the scale's vectors on the full grid, (B, D, h, w)."""
        scale, full = self.scales[number], self.scales[-1]
        e = self.codebook.rows(idx_N).unflatten(0, (-1, scale, scale)).movedim(-1, 1)
        if scale != full:
            e = F.interpolate(e, size=(full, full), mode="bicubic")
        phis = cast("list[_Phi]", list(self.phi))
        return phis[_nearest_tick(number / max(len(self.scales) - 1, 1), len(phis))](e)


class _Phi(nn.Module):
    """Half the input and half its convolution: what enlarging blurred is mended."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h_BDhw: Tensor) -> Tensor:
        return 0.5 * h_BDhw + 0.5 * self.conv(h_BDhw)


def _nearest_tick(at: float, count: int) -> int:
    """Which of `count` convolutions a scale at `at` in [0, 1] shares: those lie evenly, four of them nearer to 0 and 1.

    These are the places of VAR's published model, by the same arithmetic: two of its ten scales lie in the very middle
    between two of the four, and rounding decides.
    """
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    return int(np.argmin(np.abs(np.linspace(margin, 1 - margin, count) - at)))


def _rows(h_BDhw: Tensor) -> Tensor:
    return h_BDhw.movedim(1, -1).flatten(0, -2)
