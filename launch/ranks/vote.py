"""Agreement of the ranks, over the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from launch.command.cli import UserError, mended_by_user

Result = TypeVar("Result")


class Vote:
    """Agreement of the ranks over the CPU, without waiting for the GPU: a gloo group besides NCCL's.

    With `apart` it always has its own group, for use in another thread than the training's.
    """

    def __init__(self, world_size: int, device: torch.device | None, rank: int = 0, *, apart: bool = False):
        self.rank, self._world_size, self._group = rank, world_size, None
        if world_size > 1 and (apart or device is None or device.type != "cpu"):
            self._group = torch.distributed.new_group(backend="gloo")

    def largest(self, mine: int) -> int:
        """The largest number that any rank says; every rank must call it."""
        if self._world_size == 1:
            return mine
        number = torch.tensor(mine)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self._group)
        return int(number)

    def any(self, mine: bool) -> bool:
        """Whether any rank says yes; every rank must call it."""
        return bool(self.largest(int(mine)))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's object on every rank."""
        if self._world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's object, by rank, on every rank."""
        if self._world_size == 1:
            return [value]
        boxes: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(boxes, value, group=self._group)
        return boxes


def on_main(accelerator: Accelerator, work: Callable[[], Result]) -> Result | None:
    """Do something on rank 0; what the user can mend there is a UserError on every rank, so that all end at once."""
    result, problem = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except (UserError, OSError) as error:
            if (problem := mended_by_user(error)) is None:
                raise
    problem = Vote(accelerator.num_processes, accelerator.device).broadcast(problem)
    if problem is not None:
        raise UserError(problem)
    return result
