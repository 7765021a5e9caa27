"""What belongs to an optimizer step but not to the losses: rates, optimizers, the wrapper for several ranks."""

from __future__ import annotations

import inspect
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from launch.run.bad_updates import step_if
from stage1_tokenizer.config.training import OptimizerConfig

if TYPE_CHECKING:
    from launch.run.runtime import Run


def rate_share(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of a step in [0, steps) over its peak: linear warm-up, then constant or along a cosine."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.decay == "constant":
        return 1.0
    done = min(1.0, (step - config.warmup) / max(1, steps - 1 - config.warmup))
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(module: nn.Module, config: OptimizerConfig, peak: float) -> torch.optim.AdamW:
    """AdamW over what a module trains; `peak` is remembered as the rate that `rate_share` scales."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=peak, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    for group in optimizer.param_groups:
        group["peak"] = peak
    return optimizer


def joined_with_other_ranks(module: nn.Module, run: Run) -> nn.Module:
    """The module with its gradients averaged over the ranks; itself on one.

    Its buffers are left to it: DDP would overwrite every rank's code statistics with rank 0's.
    """
    if run.world_size == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    devices = [run.device] if run.device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    # The gradient of a 1x1 convolution may come in another order of its axes of length 1: no loss of time or bits.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    options: dict[str, Any] = {sync: False}
    return DistributedDataParallel(module, devices, gradient_as_bucket_view=True, **options)


@dataclass
class Learner:
    """A network with its optimizer."""

    raw: nn.Module
    """The network itself, which is saved."""
    module: nn.Module
    """The network as the ranks train it together."""
    optimizer: torch.optim.Optimizer
    """Its optimizer, over what the network trains."""

    @classmethod
    def build(cls, raw: nn.Module, config: OptimizerConfig, peak: float, run: Run) -> Learner:
        """Move a network to the run's device, in training mode, and give it an optimizer with the peak rate `peak`."""
        raw.to(run.device).train()
        return cls(raw, joined_with_other_ranks(raw, run), build_optimizer(raw, config, peak))

    def clip(self, most: float, scale: Tensor | None = None) -> Tensor:
        """Take a loss scale off the gradients and clip their norm (0: not); the norm before."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if scale is not None:
            torch._foreach_div_([parameter.grad for parameter in parameters if parameter.grad is not None], scale)
        return torch.nn.utils.clip_grad_norm_(parameters, most or math.inf)

    def descend(self, share: float, good: Tensor) -> None:
        """Step at `share` of the peak rate, unless `good` is false; clear the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak"]
        step_if(good, self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
