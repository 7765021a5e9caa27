"""Products with weights that do not change while codes are drawn, laid out once.

A step multiplies few rows by every weight of the model, so that reading the weights is much of its work. For float32 on
a CPU oneDNN's blocks serve that best, also where several threads share it: see `Product`.

Shapes: B rows, I features in, O features out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def on_cpu(like: Tensor) -> bool:
    """Whether these are float32 numbers on a CPU."""
    return like.device.type == "cpu" and like.dtype == torch.float32


def can_pack() -> bool:
    """Whether this torch lays float32 weights out in blocks."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Product(nn.Module):
    """y_BO = x_BI · weight_OIᵀ, for inference alone.

    Measured on an AVX2 CPU with weights that come from memory (20 M of them), as a share of the time of torch's product
    with the transposed weight: one thread 0.84 with 16 rows, 0.91 with 64, 1.02 with 1024; two threads 0.63, 0.80, 1.1.
    """

    weight: Tensor

    def __init__(self, weight_OI: Tensor):
        super().__init__()
        weight_OI = weight_OI.detach()
        if on_cpu(weight_OI) and can_pack():
            weight_OI = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous())
        self.register_buffer("weight", weight_OI)

    def forward(self, x_BI: Tensor) -> Tensor:
        """The product."""
        if not self.weight.is_mkldnn:
            return F.linear(x_BI, self.weight)
        y_BO: Tensor = torch.ops.mkldnn._linear_pointwise(x_BI, self.weight, None, "none", [], "")
        return y_BO
