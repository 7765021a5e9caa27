"""What is a function of the step: what is due, and the learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from launch.config import OptimizerConfig


def due(step: int, every: int, began: int) -> bool:
    """Whether something done every so many steps (0: never) is due at `step`, in a run resumed at `began`."""
    return step > began and every > 0 and step % every == 0


def learning_rate(config: OptimizerConfig, step: int, steps: int, peak: float | None = None) -> float:
    """The learning rate of a step in [0, steps): linear warm-up, then constant or along a cosine.

    `peak` replaces config.learning_rate; 1 gives the share of the peak.
    """
    peak = config.learning_rate if peak is None else peak
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    if config.decay == "constant":
        return peak
    done = min(1.0, (step - config.warmup) / max(1, steps - 1 - config.warmup))
    return peak * (config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2)


def descend(optimizer: torch.optim.Optimizer, rate: float | Tensor, good: Tensor) -> None:
    """Step a fused optimizer, unless `good` is false; clear the gradients. Nothing waits for the device.

    A rate that is a tensor on the device can be another one each time that a captured step is replayed.
    """
    before = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.grad_scale = None  # type: ignore[attr-defined]  # how torch's GradScaler tells fused optimizers
    optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
    optimizer.step()
    if isinstance(rate, Tensor):  # it doesn't belong into checkpoints
        for group, number in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = number
    optimizer.zero_grad(set_to_none=True)
