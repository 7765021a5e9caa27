# Made from stage1_tokenizer.reduce of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

import torch
from torch import Tensor
import torch.distributed as dist


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


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks; the gradient of the sum of all ranks' losses is again a sum over ranks."""

    @staticmethod
    def forward(context: object, tensor: Tensor) -> Tensor:
        return all_sum(tensor)

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> Tensor:
        return _SumOverRanks.apply(gradients[0])  # with a gradient of its own, for penalties on gradients


def differentiable_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, through which gradients flow to every rank's tensor."""
    return tensor if world()[1] == 1 else _SumOverRanks.apply(tensor)


def at_least_float32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 become float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
