"""Weight parametrizations: scaled, or divided by the largest singular value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stage1_tokenizer.layers.convolution import Convolution

FIRST_ITERATIONS = 15
"""Power iterations at initialisation, from random vectors."""


class Scaled(nn.Module):
    """W times a constant: equalised learning rate. (Karras et al. 2018, progressive growing, section 4.1)"""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape."""
        return weight * self.scale


class SpectralNorm(nn.Module):
    """W/σ(W), with σ the largest singular value of W as a matrix of outputs. (Miyato et al. 2018, algorithm 1)

    σ = uᵀWv. A forward does not change u and v, so that all forwards of a step, including those of gradient
    accumulation, use the same σ. `advance`, called once per step, updates them from W alone, so they are equal on all
    ranks. They are saved with the weights.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.left: Tensor
        self.right: Tensor
        self.register_buffer("left", F.normalize(torch.randn(len(matrix)), dim=0).to(matrix))
        self.register_buffer("right", F.normalize(torch.randn(matrix.shape[1]), dim=0).to(matrix))
        for _ in range(FIRST_ITERATIONS):
            self.advance(weight)

    @torch.no_grad()
    def advance(self, weight: Tensor) -> None:
        """One power iteration."""
        matrix = weight.flatten(1)
        self.right.copy_(F.normalize(self.left @ matrix, dim=0))
        self.left.copy_(F.normalize(matrix @ self.right, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape; the gradient includes that of σ."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight / torch.dot(self.left, weight.flatten(1) @ self.right)


def spectrally_normal(layer: Convolution | nn.Linear) -> None:
    """Divide a layer's weight by its largest singular value from now on."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


def scaled(layer: Convolution | nn.Linear, *, spectral: bool) -> None:
    """Initialise the weight from N(0, 1) and the bias with 0, and scale the weight by 1/√(inputs).

    `spectral`: spectral norm instead, with which a constant makes no difference.
    """
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if spectral:
        spectrally_normal(layer)
    else:
        parametrize.register_parametrization(layer, "weight", Scaled(layer.weight[0].numel() ** -0.5))


def advance(network: nn.Module) -> None:
    """One power iteration in each layer with spectral norm; call it once per step, before the first forward."""
    for part in network.modules():
        if isinstance(part, parametrize.ParametrizationList) and isinstance(part[0], SpectralNorm):
            part[0].advance(part.original)
