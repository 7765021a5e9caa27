"""Copies to the device that don't make the host wait."""

import torch
from torch import Tensor


def uploaded(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device. On a GPU the copy waits its turn in the stream, and the host goes on meanwhile."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()  # from memory that isn't pinned the copy would be waited for
    return x.to(device, non_blocking=True)
