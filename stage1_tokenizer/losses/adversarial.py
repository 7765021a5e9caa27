"""The adversarial terms of both networks, the discriminator's regularisers, and the adaptive weight.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from launch.ranks.reduce import all_mean
from stage1_tokenizer.layers.convolution import LastLayer
from stage1_tokenizer.layers.precision import at_least_float32

_WEIGHT_GRADIENTS = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """What the generator minimises of the logits of its pictures. (hinge: Lim & Ye 2017; Goodfellow et al. 2014)

    `vanilla` takes the hinge form's term −D(x̂), as taming-transformers does beside its logistic discriminator;
    `least_squares` is Mao et al. 2017, with 0 for generated and 1 for real pictures.
    """
    fake = at_least_float32(fake)
    if kind == "least_squares":
        return (fake - 1).square().mean() / 2
    return F.softplus(-fake).mean() if kind == "non_saturating" else -fake.mean()


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises, half for the real pictures and half for the generated ones."""
    real, fake = at_least_float32(real), at_least_float32(fake)
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    if kind == "least_squares":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


class LeCam:
    """Draws the discriminator's logits to running means of the other side's (LeCam: Tseng et al. 2021).

    The penalty is E[(D(x) − ā_fake)²] + E[(D(x̂) − ā_real)²]; ā_real and ā_fake are moving averages of the global
    batch's logits. They belong to a run's state.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.real, self.fake, self.known = torch.zeros(()), torch.zeros(()), False

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Take the logits into the averages, then the penalty. Every rank must call it alike."""
        real, fake = at_least_float32(real), at_least_float32(fake)
        new = all_mean(torch.stack([real.detach().mean(), fake.detach().mean()]))
        old = torch.stack([self.real, self.fake]).to(new)
        new = torch.where(new.isfinite().all(), new, old)
        self.real, self.fake = (old.lerp(new, 1 - self.decay) if self.known else new).unbind()
        self.known = True
        return (real - self.fake).square().mean() + (fake - self.real).square().mean()

    def state_dict(self) -> dict[str, Tensor]:
        """The averages."""
        return {"real": self.real, "fake": self.fake, "known": torch.tensor(self.known)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take them back."""
        self.real, self.fake, self.known = state["real"], state["fake"], bool(state["known"])


def gradient_penalty(logits: Tensor, x_BCHW: Tensor) -> Tensor:
    """Mean over pictures of ‖∂ΣD/∂x‖²: R1 on real pictures, R2 on others (Mescheder et al. 2018, eq. 9 without γ/2)."""
    (towards_x,) = torch.autograd.grad(logits.sum(), x_BCHW, create_graph=True)
    return towards_x.square().flatten(1).sum(1).mean()


def adaptive_weight(layer: LastLayer, features_BCHW: Tensor, towards_rec: Tensor, towards_adv: Tensor) -> Tensor:
    """‖∇L_rec‖ / (‖∇L_adv‖ + 1e-4), the gradients being those of the last layer's weight. (Esser et al. 2021, eq. 7)

    `layer` is the decoder's last convolution, `features_BCHW` what entered it, `towards_rec` and `towards_adv` the
    gradients of both losses at what it gave. So no backward through the losses is needed, only one convolution for
    both, which reads the features once. The gradients are averaged over ranks before their norms are taken.
    """
    both = torch.cat([towards_rec, towards_adv], dim=1)
    outputs = towards_rec.shape[1]
    features = features_BCHW.detach().to(both.dtype)
    # A transposed convolution's weight meets the same products, with its input and its output in each other's place.
    given, towards = (both, features) if layer.transposed else (features, both)
    shape = (towards.shape[1], given.shape[1], *layer.kernel_size)
    gradient = _WEIGHT_GRADIENTS[both.ndim - 2](given, shape, towards, stride=layer.stride, padding=layer.padding)
    gradient = all_mean(gradient.transpose(0, 1) if layer.transposed else gradient)
    return gradient[:outputs].norm() / (gradient[outputs:].norm() + 1e-4)
