"""The ranks of a command that isn't a training run (evaluation, encoding, sampling)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from launch.config import RunConfig
from launch.ranks import start as distributed
from launch.ranks.reduce import all_sum
from launch.ranks.vote import Vote


class Ranks(Protocol):
    """This process among its ranks; a Run is one, and so is `Joined`."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks of a tensor on that device."""

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable object, by rank."""


class Joined:
    """The ranks of a command (`joined`), as Ranks."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.vote = Vote(self.world_size, self.device, self.rank)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks of a tensor on the device."""
        return all_sum(tensor)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable object, by rank."""
        return self.vote.gather(value)

    def heartbeat(self) -> None:
        """Nothing: only a Run has a watchdog."""


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
