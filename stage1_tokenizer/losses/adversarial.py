"""The adversarial terms of both networks, feature matching, the discriminator's regularisers, the adaptive weight.

Legend: B batch, C channels, H W pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from launch.ranks.reduce import all_mean
from stage1_tokenizer.layers.convolution import LastLayer
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.layers.video import TimeConv3d

_WEIGHT_GRADIENTS = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """The generator's loss, from the logits of its reconstructions. (hinge: Lim & Ye 2017; Goodfellow et al. 2014)

    `vanilla` uses the hinge term −D(x̂), as taming-transformers does with its logistic discriminator; `least_squares`
    is Mao et al. 2017, with target 0 for generated and 1 for real samples.
    """
    fake = at_least_float32(fake)
    if kind == "least_squares":
        return (fake - 1).square().mean() / 2
    return F.softplus(-fake).mean() if kind == "non_saturating" else -fake.mean()


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: the mean of one half for real samples and one for generated ones."""
    real, fake = at_least_float32(real), at_least_float32(fake)
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    if kind == "least_squares":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def reduced(values: Sequence[Tensor], how: str) -> Tensor:
    """The mean or the sum of scalars; of one, itself."""
    total = sum(values[1:], values[0])
    return total / len(values) if how == "mean" and len(values) > 1 else total


def feature_distance(fake: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]], how: str = "mean") -> Tensor:
    """Feature matching: mean |Δ| of each feature map, reduced over the maps of a part, then over parts.

    (Larsen et al. 2016; HiFi-GAN, eq. 5.) The features of real samples are a target without gradient. There is no
    division by their size, which has made this term leap where they vanish.
    """
    return reduced(
        [
            reduced(
                [F.l1_loss(at_least_float32(y), at_least_float32(x.detach())) for y, x in zip(*maps, strict=True)], how
            )
            for maps in zip(fake, real, strict=True)
        ],
        how,
    )


class LeCam:
    """Pulls the discriminator's logits towards running means of the other side's (LeCam: Tseng et al. 2021).

    The penalty is E[(D(x) − ā_fake)²] + E[(D(x̂) − ā_real)²]; ā_real and ā_fake are moving averages of the global
    batch's logits. They are part of a checkpoint.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.real, self.fake, self.known = torch.zeros(()), torch.zeros(()), False

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Update the averages with the logits, then return the penalty. All ranks must call it."""
        real, fake = at_least_float32(real), at_least_float32(fake)
        new = all_mean(torch.stack([real.detach().mean(), fake.detach().mean()]))
        old = torch.stack([self.real, self.fake]).to(new)
        new = torch.where(new.isfinite().all(), new, old)
        self._keep(old.lerp(new, 1 - self.decay) if self.known else new)
        self.known = True
        return (real - self.fake).square().mean() + (fake - self.real).square().mean()

    def _keep(self, means: Tensor) -> None:
        """In the tensors that there are, which a captured step reads again, from the second time on a device on."""
        if self.real.device == means.device and self.real.dtype == means.dtype and self.known:
            self.real.copy_(means[0])
            self.fake.copy_(means[1])
        else:
            self.real, self.fake = means.clone().unbind()

    def state_dict(self) -> dict[str, Tensor]:
        """The averages."""
        return {"real": self.real, "fake": self.fake, "known": torch.tensor(self.known)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the averages."""
        self.real, self.fake, self.known = state["real"].clone(), state["fake"].clone(), bool(state["known"])


def gradient_penalty(logits: Tensor, x_BCHW: Tensor) -> Tensor:
    """Mean of ‖∂ΣD/∂x‖² over samples: R1 on real ones, R2 on generated ones (Mescheder et al. 2018, eq. 9; no γ/2)."""
    (grad_x,) = torch.autograd.grad(logits.sum(), x_BCHW, create_graph=True)
    return grad_x.square().flatten(1).sum(1).mean()


def adaptive_weight(layer: LastLayer, features_BCHW: Tensor, grad_rec: Tensor, grad_adv: Tensor) -> Tensor:
    """‖∇L_rec‖ / (‖∇L_adv‖ + 1e-4), with the gradients of the last layer's weight. (Esser et al. 2021, eq. 7)

    `layer` is the decoder's last convolution, `features_BCHW` its input; `grad_rec` and `grad_adv` are the gradients of
    both losses at its output. So the weight needs no backward through the losses, only one convolution for both, which
    reads the features once. The gradients are averaged over ranks before their norms are computed.
    """
    both = torch.cat([grad_rec, grad_adv], dim=1)
    outputs = grad_rec.shape[1]
    features = features_BCHW.detach().to(both.dtype)
    if isinstance(layer, TimeConv3d):
        features = layer.padded(features)
    # For a transposed convolution input and output change places.
    entering, grad_out = (both, features) if layer.transposed else (features, both)
    shape = (grad_out.shape[1], entering.shape[1], *layer.kernel_size)
    gradient = _WEIGHT_GRADIENTS[both.ndim - 2](entering, shape, grad_out, stride=layer.stride, padding=layer.padding)
    gradient = all_mean(gradient.transpose(0, 1) if layer.transposed else gradient)
    return gradient[:outputs].norm() / (gradient[outputs:].norm() + 1e-4)
