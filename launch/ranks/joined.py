"""This process among the ranks of its launch; `joined` starts those of a command that isn't a training run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from launch.config import RunConfig
from launch.ranks import start as distributed
from launch.ranks.reduce import all_sum
from launch.ranks.vote import Vote


class Ranks:
    """This process among the ranks that the launcher started (`joined`); a Run is one too."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        """Its number, from 0, and how many there are."""
        self.is_main = accelerator.is_main_process
        """Whether this is rank 0, which writes."""
        self.device = accelerator.device
        """Where it computes."""
        self.vote = Vote(accelerator)
        """Agreement of the ranks over the CPU."""

    def heartbeat(self) -> None:
        """A sign of life during long work: for the watchdog, which only a Run has."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable object, on every rank."""
        return self.vote.broadcast(value)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable object, by rank, on every rank."""
        return self.vote.gather(value)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks of a tensor on the device."""
        self.heartbeat()
        return all_sum(tensor)


@contextlib.contextmanager
def joined() -> Iterator[Accelerator]:
    """The ranks that the launcher started, checked as a training run's are, together until the end of the block.

    A failure of one ends all. Raises UserError where the launch isn't what was asked for. Writes no run folder.
    """
    outside = torch.distributed.is_initialized()
    accelerator = distributed.start(RunConfig(folder=".", trackers=[]))
    with distributed.failing_together(accelerator):
        yield accelerator
        accelerator.wait_for_everyone()
    distributed.end(accelerator, close_group=not outside)
