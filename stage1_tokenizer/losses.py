"""The terms of stage one's loss, and the weight that balances them.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from stage1_tokenizer.convolution import Convolution
from stage1_tokenizer.reduce import all_mean, at_least_float32

PIXEL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}
"""Distances between reconstruction and picture, each a mean over all elements."""

_WEIGHT_GRADIENTS = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """What the generator minimises of the logits of its pictures. (hinge: Lim & Ye 2017; Goodfellow et al. 2014)

    `vanilla` takes the hinge form's term −D(x̂), as taming-transformers does beside its logistic discriminator.
    """
    fake = at_least_float32(fake)
    return F.softplus(-fake).mean() if kind == "non_saturating" else -fake.mean()


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises, half for the real pictures and half for the generated ones."""
    real, fake = at_least_float32(real), at_least_float32(fake)
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def adaptive_weight(layer: Convolution, features_BCHW: Tensor, towards_rec: Tensor, towards_adv: Tensor) -> Tensor:
    """‖∇L_rec‖ / (‖∇L_adv‖ + 1e-4), the gradients being those of the last layer's weight. (Esser et al. 2021, eq. 7)

    `layer` is the decoder's last convolution, `features_BCHW` what entered it, `towards_rec` and `towards_adv` the
    gradients of both losses at what it gave. So no backward through the losses is needed, only one convolution for
    both, which reads the features once. The gradients are averaged over ranks before their norms are taken.
    """
    both = torch.cat([towards_rec, towards_adv], dim=1)
    outputs = towards_rec.shape[1]
    shape = (2 * outputs, features_BCHW.shape[1], *layer.kernel_size)
    features = features_BCHW.detach().to(both.dtype)
    gradient = _WEIGHT_GRADIENTS[both.ndim - 2](features, shape, both, stride=layer.stride, padding=layer.padding)
    gradient = all_mean(gradient)
    return gradient[:outputs].norm() / (gradient[outputs:].norm() + 1e-4)


def evenly_spread(count: int, fraction: float, device: torch.device) -> Tensor | None:
    """Which pictures of a batch a term looks at: a share of them, at least one; None for all."""
    chosen = [number for number in range(count) if int((number + 1) * fraction) > int(number * fraction)] or [0]
    return None if len(chosen) == count else torch.tensor(chosen, device=device)
