"""Agreement of the ranks, over the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from launch.command.cli import UserError, mended_by_user

Result = TypeVar("Result")


_shared: tuple[Any, Any] | None = None
"""The default group of the ranks, and the gloo group that their votes share."""


class Vote:
    """Agreement of the ranks over the CPU, without waiting for the GPU: a gloo group besides NCCL's.

    All votes of a process share one group, which waits as long as the ranks' other groups do (run.timeout). With
    `apart` it has its own, for use in another thread than the training's. Without an accelerator it is of this process
    alone. All ranks make their votes in the same order.
    """

    def __init__(self, accelerator: Accelerator | None = None, *, apart: bool = False):
        self.rank, self._world_size, self._group = 0, 1, None
        if accelerator is not None:
            self.rank, self._world_size = accelerator.process_index, accelerator.num_processes
            if self._world_size > 1 and (apart or accelerator.device.type != "cpu"):
                self._group = _new_group(accelerator) if apart else _shared_group(accelerator)

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


def _shared_group(accelerator: Accelerator) -> Any:
    global _shared
    if _shared is None or _shared[0] is not torch.distributed.group.WORLD:
        _shared = (torch.distributed.group.WORLD, _new_group(accelerator))
    return _shared[1]


def _new_group(accelerator: Accelerator) -> Any:
    handler = accelerator.init_handler
    return torch.distributed.new_group(backend="gloo", timeout=handler.timeout if handler else None)


def on_main(accelerator: Accelerator, work: Callable[[], Result]) -> Result | None:
    """Do something on rank 0; what the user can mend there is a UserError on every rank, so that all end at once."""
    result, problem = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except (UserError, OSError) as error:
            if (problem := mended_by_user(error)) is None:
                raise
    problem = Vote(accelerator).broadcast(problem)
    if problem is not None:
        raise UserError(problem)
    return result
