"""How the ranks of a training share a model's weights, gradients and optimizer: run.strategy.

The ranks are accelerate's in every case, so that a strategy is the same code on GPUs and, over gloo, on CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from launch.run.runtime import Run
from launch.strategies.base import Strategy
from launch.strategies.fsdp2 import Fsdp2
from launch.strategies.zero import Zero


def share_out(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.AdamW],
    run: Run,
    *,
    clip: float = 0.0,
    parts: int = 1,
    aside: Sequence[str] = (),
    units: Sequence[nn.Module] | None = None,
    low: bool = True,
) -> Strategy:
    """The model in training as run.strategy says. It must be the same on all ranks, and is moved to the device.

    DeepSpeed must know the norm that `descend` clips to, and in how many parts each batch comes, beforehand. `aside`
    names children that stay whole on every rank (launch.strategies.aside). `units` are the modules whose weights fsdp2
    gathers together, each at its forward; without it, `blocks(model)`. With `low` it gathers them in run.precision.
    """
    name = run.strategy
    if name == "ddp" or run.world_size == 1:
        if name != "ddp":
            run.say(f"note: only one rank, so run.strategy={name} has no effect")
        return Strategy(model, make_optimizer, run)
    if name == "fsdp2":
        return Fsdp2(model, make_optimizer, run, aside=aside, units=units, low=low)
    return Zero(model, make_optimizer, run, clip=clip, parts=parts, aside=aside)
