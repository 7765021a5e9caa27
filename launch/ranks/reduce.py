"""Sums and means over all ranks; on one process, the value itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
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


def all_rows(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, which have one shape, one after the other along their first axis; without gradient."""
    if world()[1] == 1:
        return tensor.detach()
    rows = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world()[1])]
    dist.all_gather(rows, tensor.detach().contiguous())
    return torch.cat(rows)


def all_mean(tensor: Tensor) -> Tensor:
    """The mean of a tensor over ranks, without gradient."""
    return all_sum(tensor) / world()[1]


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


class _RowsOfRanks(torch.autograd.Function):
    """The rows of all ranks; the gradient of the sum of all ranks' losses reaches the rank that a row is from."""

    @staticmethod
    def forward(context: object, tensor: Tensor) -> Tensor:
        return all_rows(tensor)

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> Tensor:
        rank, ranks = world()
        return all_sum(gradients[0]).chunk(ranks)[rank]


def differentiable_rows(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, which have one shape, one after the other; gradients flow to every rank's tensor."""
    return tensor if world()[1] == 1 else _RowsOfRanks.apply(tensor)


def all_finite(values: Iterable[Tensor]) -> Tensor:
    """Whether all of these losses and norms of gradients are finite on all ranks, as one boolean on their device."""
    good = torch.isfinite(torch.cat([value.detach().float().reshape(-1) for value in values])).all()
    if world()[1] > 1:
        agreed = good.int()
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
        good = agreed.bool()
    return good
