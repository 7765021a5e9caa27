"""Products with weights that don't change while codes are drawn, laid out once for the rows of a decoding step.

A step multiplies few rows by every weight of the model, so that reading the weights is much of its work. For float32 on
a CPU, measured on an AVX2 CPU with weights that come from memory (20 M of them, one thread): in oneDNN's blocks 0.8 of
the plain product's time with 8 rows and 0.86 with 16; transposed 0.92 with 8 and 16, 0.93 with 32, 0.95 with 64.

Shapes: B rows, I features in, O features out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MOST_ROWS = 24
"""More rows than this are multiplied as fast by the transposed weight."""


def on_cpu(like: Tensor) -> bool:
    """Whether these are float32 numbers on a CPU."""
    return like.device.type == "cpu" and like.dtype == torch.float32


def can_pack() -> bool:
    """Whether this torch lays float32 weights out in blocks."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def roomy(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised memory of a shape, in the type and on the device of `like`.

    On a CPU it is numpy's, which asks the system for large pages (measured: a tenth less time to read a cache).
    """
    if on_cpu(like):
        return torch.from_numpy(np.empty(tuple(shape), dtype=np.float32))
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)


class Product:
    """y_BO = x_BI · weight_OIᵀ, for inference alone."""

    def __init__(self, weight_OI: Tensor):
        self.weight_OI = weight_OI.detach()
        if on_cpu(self.weight_OI):
            weight_IO = roomy(self.weight_OI.t().shape, self.weight_OI).copy_(self.weight_OI.t())
            self.weight_OI = weight_IO.t()
        self._packed: Any = None
        self._rows = 0

    def prepare(self, rows: int) -> None:
        """Lay the weight out for x of so many rows; other numbers of rows work too."""
        if rows == self._rows:
            return
        self._rows, self._packed = rows, None
        if rows <= MOST_ROWS and on_cpu(self.weight_OI) and can_pack():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight_OI.contiguous(), rows)

    def __call__(self, x_BI: Tensor) -> Tensor:
        """The product."""
        if self._packed is None:
            return F.linear(x_BI, self.weight_OI)
        return torch.ops.mkldnn._linear_pointwise(x_BI, self._packed, None, "none", [], "")
