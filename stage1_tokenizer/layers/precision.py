"""Float32 computations under mixed precision."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 become float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
