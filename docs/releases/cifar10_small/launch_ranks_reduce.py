# Made from launch.ranks.reduce of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

import torch.distributed as dist
import torch
from torch import Tensor


def world() -> tuple[int, int]:
    """This rank and the number of ranks; (0, 1) where nothing is distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor over ranks, without gradient; the tensor given is left as it is."""
    if world()[1] == 1:
        return tensor.detach()
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
