# Made from stage1_tokenizer.quantizers.gradients of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import Tensor
import torch.nn.functional as F


def straight_through(z_ND: Tensor, e_ND: Tensor) -> Tensor:
    """The codes, with the gradient of the latents (van den Oord et al. 2017, section 3.2).

    z − z is exactly 0, so the values are bit-identical to those from embed.
    """
    return e_ND.detach() + (z_ND - z_ND.detach())


def rotated(z_ND: Tensor, e_ND: Tensor) -> Tensor:
    """The codes, with the gradient rotated and scaled as e is from z (the rotation trick, Fifty et al. 2024).

    e = λ R z with λ = ‖e‖/‖z‖ and R = I − 2 r rᵀ + 2 ê ẑᵀ, r = (ẑ + ê)/‖ẑ + ê‖, where a hat means unit length; λ and R
    are treated as constants. The values are bit-identical to e.
    """
    z, e_ND = z_ND.detach(), e_ND.detach()
    unit_z, unit_e = F.normalize(z, dim=1), F.normalize(e_ND, dim=1)
    mirror = F.normalize(unit_z + unit_e, dim=1)
    scale_N1 = e_ND.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True).clamp_min(1e-12)
    zero = z_ND - z
    reflected = zero - 2 * (zero * mirror).sum(1, keepdim=True) * mirror
    return e_ND + scale_N1 * (reflected + 2 * (zero * unit_z).sum(1, keepdim=True) * unit_e)


GRADIENTS = {"straight_through": straight_through, "rotation": rotated}
"""Gradient estimators by their name in the configuration."""
