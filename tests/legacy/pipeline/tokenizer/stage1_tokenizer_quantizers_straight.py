# Made from stage1_tokenizer.quantizers.straight of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import Tensor
import torch.nn.functional as F
import torch


def straight_through(z_ND: Tensor, e_ND: Tensor) -> Tensor:
    """The codes, with the gradient of the latents (van den Oord et al. 2017, section 3.2).

    z − z is exactly 0, so that the decoder sees in training the very values that embed gives.
    """
    return e_ND.detach() + (z_ND - z_ND.detach())


def rotated(z_ND: Tensor, e_ND: Tensor) -> Tensor:
    """The codes, with the gradient turned and scaled as z was on its way to e (the rotation trick, Fifty et al. 2024).

    e = λ R z with λ = ‖e‖/‖z‖ and R = I − 2 r rᵀ + 2 ê ẑᵀ, r = (ẑ + ê)/‖ẑ + ê‖, where a hat means length 1; λ and R
    are constants to the gradient. The values are those of e to the bit.
    """
    z, e_ND = z_ND.detach(), e_ND.detach()
    unit_z, unit_e = F.normalize(z, dim=1), F.normalize(e_ND, dim=1)
    mirror = F.normalize(unit_z + unit_e, dim=1)
    scale_N1 = e_ND.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True).clamp_min(1e-12)
    zero = z_ND - z
    turned = (
        zero - 2 * (zero * mirror).sum(1, keepdim=True) * mirror + 2 * (zero * unit_z).sum(1, keepdim=True) * unit_e
    )
    return e_ND + scale_N1 * turned


GRADIENTS = {"straight_through": straight_through, "rotation": rotated}
"""What passes the gradient on, by its name in the configuration."""


def one_hot_through(soft_NK: Tensor, idx_N: Tensor) -> Tensor:
    """One-hot rows of `idx_N` with the gradient of `soft_NK`: one_hot − sg[soft] + soft, exact in its values."""
    hard_NK = torch.zeros_like(soft_NK).scatter_(1, idx_N[:, None], 1.0)
    return hard_NK + (soft_NK - soft_NK.detach())
