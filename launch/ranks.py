"""The ranks of a command that isn't a training run (evaluation, encoding, sampling)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from launch import distributed
from launch.runtime import RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextlib.contextmanager
def joined() -> Iterator[Accelerator]:
    """The ranks that the launcher started, checked as a training run's are, together until the end of the block.

    A failure of one ends all. Raises UserError where the launch isn't what was asked for. Writes no run folder.
    """
    import torch

    outside = torch.distributed.is_initialized()
    accelerator = distributed.start(RunConfig(folder=".", trackers=[]))
    with distributed.failing_together(accelerator):
        yield accelerator
        accelerator.wait_for_everyone()
    distributed.end(accelerator, close_group=not outside)
