"""Multi-scale residual quantization: a coarse version of the picture, then finer and finer corrections.

Legend: B batch, D code dimension, h w latent grid, N codes of a picture (all scales), K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.layers.precision import at_least_float32, widened
from stage1_tokenizer.quantizers.base import Quantized, Quantizer, exactly
from stage1_tokenizer.quantizers.gradients import straight_through
from stage1_tokenizer.quantizers.vq import VectorQuantizer


class MultiscaleQuantizer(Quantizer):
    """One codebook for a pyramid of residuals (Tian et al. 2024, VAR, algorithms 1 and 2).

    For each scale: the residual, downsampled to s×s by area, is quantized; the code vectors, upsampled bicubically and
    passed through a convolution φ, are subtracted from the residual and added to the latents. Codes (B, N) are those of
    all scales, coarsest first, each in row-major order. The losses compare the sum after each scale with z, as means
    over the scales. With `codebook_dropout` the sum, and the losses, of some training samples end with a drawn scale.
    """

    def __init__(self, config: QuantizerConfig):
        super().__init__(config)
        self.scales = list(config.scales)
        self.codebook = VectorQuantizer(config)
        self.phi = nn.ModuleList(_Phi(config.code_dim) for _ in range(min(4, len(self.scales))))
        places = [number / max(len(self.scales) - 1, 1) for number in range(len(self.scales))]
        self._phi_of = [_nearest_tick(place, len(self.phi)) for place in places]

    def begin(self, positions: int) -> None:
        """Begin a training step of the codebook."""
        self.codebook.begin(positions)
        self.starting, self.reviving = self.codebook.starting, self.codebook.reviving

    def codes_shape(self, grid: Sequence[int]) -> tuple[int, ...]:
        """(N,). ValueError unless the grid is the last scale."""
        last = self.scales[-1]
        if tuple(grid) != (last, last):
            raise ValueError(
                f"a latent grid of {tuple(grid)} is not the last of model.quantizer.scales, {last}x{last}: resize the "
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
        with exactly(z_BDhw):
            z = at_least_float32(z_BDhw)
            rest, total = z.detach(), torch.zeros_like(z)
            if self.training:
                self.codebook.revive(_rows(rest))
            codes, looked_up, commitment, codebook = [], [], [], []
            kept_B = self.levels_kept(len(self.scales), len(z), z.device)
            for number, scale in enumerate(self.scales):
                small = rest if scale == self.scales[-1] else F.interpolate(rest, size=(scale, scale), mode="area")
                idx_N = self.codebook.search(_rows(small))
                looked_up.append(small.flatten(2).transpose(1, 2))
                codes.append(idx_N.view(len(z), -1))
                h = self._enlarged(number, idx_N)
                rest = rest - h.detach()
                total = total + (h if kept_B is None else h * (kept_B > number)[:, None, None, None])
                commitment.append(_error(total.detach(), z, kept_B))
                codebook.append(_error(total, z.detach(), kept_B))
            idx_BN = torch.cat(codes, dim=1)
            if self.training:
                self.codebook.count(torch.cat(looked_up, dim=1).flatten(0, 1), idx_BN.flatten())
            losses = {
                "commitment": self.config.commitment * _mean(commitment, kept_B),
                "codebook": _mean(codebook, kept_B),
            }
        return Quantized(self.as_weights(straight_through(z, total)).contiguous(), idx_BN, losses)

    def nearby(self, codes: Tensor, ranks: Tensor, nearest: int) -> Tensor:
        """The nearest codes of the codebook, whatever the scale."""
        return self.codebook.nearby(codes, ranks, nearest)

    def embed(self, idx_BN: Tensor) -> Tensor:
        """Codes to latents (B, D, h, w)."""
        total = torch.zeros(())
        for number, idx in enumerate(idx_BN.split([scale**2 for scale in self.scales], dim=1)):
            total = self.add_scale(total, number, idx)
        return self.as_weights(total).contiguous()

    def add_scale(self, total_BDhw: Tensor, number: int, idx_BM: Tensor) -> Tensor:
        """The latents (B, D, h, w) of the scales up to `number`, from those of the previous scales (0 if none).

        At least float32, as they are summed up further.
        """
        with exactly(idx_BM):
            h_BDhw = self._enlarged(number, idx_BM.flatten())
        total_BDhw = total_BDhw.to(h_BDhw) if total_BDhw.ndim else total_BDhw  # a number needs no copy
        return total_BDhw + h_BDhw

    def _enlarged(self, number: int, idx_N: Tensor) -> Tensor:
        """φ of the scale's upsampled code vectors, (B, D, h, w)."""
        scale, full = self.scales[number], self.scales[-1]
        e = self.codebook.rows(idx_N).unflatten(0, (-1, scale, scale)).movedim(-1, 1)
        if scale != full:
            e = F.interpolate(e, size=(full, full), mode="bicubic")
        return cast("list[_Phi]", list(self.phi))[self._phi_of[number]](e)


class _Phi(nn.Module):
    """Half the input plus half its convolution, which sharpens what upsampling blurred."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h_BDhw: Tensor) -> Tensor:
        return 0.5 * h_BDhw + 0.5 * widened(self.conv, h_BDhw)


def _nearest_tick(at: float, count: int) -> int:
    """Which of `count` evenly spaced convolutions a scale at `at` in [0, 1] uses; four of them lie nearer to 0 and 1.

    This is the arithmetic of VAR's published model: two of its ten scales lie exactly halfway between two of the four
    convolutions, so rounding decides.
    """
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    return int(np.argmin(np.abs(np.linspace(margin, 1 - margin, count) - at)))


def _error(x_BDhw: Tensor, y_BDhw: Tensor, kept_B: Tensor | None) -> Tensor:
    """The mean squared difference; where samples keep some of the scales, each sample's."""
    return F.mse_loss(x_BDhw, y_BDhw) if kept_B is None else (x_BDhw - y_BDhw).square().flatten(1).mean(1)


def _mean(errors: Sequence[Tensor], kept_B: Tensor | None) -> Tensor:
    """The mean over the scales; of samples that keep some, over those, then over the samples."""
    error_SB = torch.stack(list(errors))
    if kept_B is None:
        return error_SB.mean()
    used_SB = torch.arange(len(error_SB), device=kept_B.device)[:, None] < kept_B
    return ((error_SB * used_SB).sum(0) / kept_B).mean()


def _rows(h_BDhw: Tensor) -> Tensor:
    return h_BDhw.movedim(1, -1).flatten(0, -2)
