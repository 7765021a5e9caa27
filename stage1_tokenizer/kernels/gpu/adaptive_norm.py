"""The adaptive normalization of MAGVIT2's decoder on GPUs: group normalization with weights of each picture's own."""

from __future__ import annotations

from torch import Tensor

from stage1_tokenizer.kernels.gpu.group_norm import group_norm, takes
from stage1_tokenizer.networks.maskgit import AdaptiveNorm


class FusedAdaptiveNorm(AdaptiveNorm):
    """AdaptiveNorm, by the operator where the input is on a GPU and its type is supported."""

    def forward(self, h_BCHW: Tensor, z_BDhw: Tensor) -> Tensor:
        """Same shape, type and layout as h."""
        if not takes(h_BCHW):
            return super().forward(h_BCHW, z_BDhw)
        gamma_BC, beta_BC = self.gamma_and_beta(z_BDhw)
        return group_norm(h_BCHW, self.groups, gamma_BC, beta_BC)
