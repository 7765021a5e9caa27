# Made from launch.ranks.transfer of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import Tensor
import torch


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU's on a device; a GPU copies it from pinned memory, in turn with the work before it.

    `tensor.to(device)` would wait until the GPU has done everything that it was given so far. torch keeps the pinned
    memory until the copy is done.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
