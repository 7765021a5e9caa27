"""Products with weights that don't change while codes are drawn, laid out once for the rows of a decoding step.

A step multiplies few rows by every weight of the model, so that reading the weights is most of its work. For a float32
weight on a CPU with oneDNN that reading is faster in blocks (measured on an AVX2 CPU: 0.75 of the plain product's time
with 8 rows, 0.9 with 32, no gain with 64).

Shapes: B rows, I features in, O features out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_ROWS = 48
"""More rows than this are multiplied as fast by the plain product."""


def can_pack(weight_OI: Tensor) -> bool:
    """Whether this torch lays out such a weight in blocks."""
    return (
        weight_OI.device.type == "cpu"
        and weight_OI.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class Product:
    """y_BO = x_BI · weight_OIᵀ, for inference alone."""

    def __init__(self, weight_OI: Tensor):
        self.weight_OI = weight_OI.detach()
        self._packed: Any = None
        self._rows = 0

    def prepare(self, rows: int) -> None:
        """Lay the weight out for x of so many rows; other numbers of rows work too."""
        if rows == self._rows:
            return
        self._rows, self._packed = rows, None
        if rows <= MOST_ROWS and can_pack(self.weight_OI):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight_OI.contiguous(), rows)

    def __call__(self, x_BI: Tensor) -> Tensor:
        """The product."""
        if self._packed is None:
            return F.linear(x_BI, self.weight_OI)
        return torch.ops.mkldnn._linear_pointwise(x_BI, self._packed, None, "none", [], "")
