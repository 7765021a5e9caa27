"""A network with its optimizer, and the wrapper that trains it on several ranks."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launch.config import OptimizerConfig
from launch.run.runtime import Run
from launch.run.schedule import descend
from launch.strategies.base import ddp_options
from stage1_tokenizer.config.losses import DiscriminatorOptimizerConfig
from stage1_tokenizer.config.training import TokenizerOptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that a module trains; its settings are these also after a state is loaded."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    settings = {"betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, **settings, fused=True)  # type: ignore[arg-type]

    def configure(loaded: torch.optim.Optimizer) -> None:
        for group in loaded.param_groups:
            group.update(settings)

    optimizer.register_load_state_dict_post_hook(configure)
    return optimizer


def discriminator_settings(run: TokenizerOptimizerConfig, own: DiscriminatorOptimizerConfig) -> OptimizerConfig:
    """The run's settings with a discriminator's own in their place."""
    rate = run.discriminator_learning_rate or run.learning_rate
    return replace(run, **{"learning_rate": rate} | own.own())


def joined_with_other_ranks(module: nn.Module, run: Run) -> nn.Module:
    """The module with its gradients averaged over the ranks; the module itself on one rank.

    Its buffers stay its own: DDP would overwrite every rank's code statistics with rank 0's.
    """
    if run.world_size == 1:
        return module
    devices = [run.device] if run.device.type == "cuda" else None
    _fix_strides(module)
    return DistributedDataParallel(module, devices, **ddp_options())


def _fix_strides(module: nn.Module) -> None:
    """Let gradients have their parameters' strides also along axes of length 1, where any stride is right.

    Those of 1x1 convolutions may have others, and DDP takes them for another layout: it copies, and warns, but once
    only, so that a warning that means something would be lost.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(partial(_with_strides, strides=parameter.stride()))


def _with_strides(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    axes = zip(gradient.shape, gradient.stride(), strides, strict=True)
    if gradient.stride() == strides or any(size > 1 and own != other for size, own, other in axes):
        return gradient
    return gradient.as_strided(gradient.shape, strides)


@dataclass
class Learner:
    """A network with its optimizer."""

    raw: nn.Module
    """The network itself, which is saved."""
    module: nn.Module
    """The network as the ranks train it together."""
    optimizer: torch.optim.Optimizer
    """Its optimizer, over the parameters that are trained."""
    settings: OptimizerConfig
    """The optimizer's settings, with this network's peak learning rate."""

    @classmethod
    def build(cls, raw: nn.Module, settings: OptimizerConfig, run: Run, *, channels_last: bool = False) -> Self:
        """Move a network to the run's device, in training mode, and give it an optimizer.

        With `channels_last` its 2-D convolutions get that layout first, as DDP's buckets, the optimizer's state and
        copies take over the layout that they find.
        """
        raw.to(run.device).train()
        if channels_last:
            raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(raw, joined_with_other_ranks(raw, run), build_optimizer(raw, settings), settings)

    def clip(self, scale: Tensor | None = None) -> Tensor:
        """Divide the gradients by a loss scale and clip their norm; the norm before clipping."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if scale is not None:
            torch._foreach_div_([parameter.grad for parameter in parameters if parameter.grad is not None], scale)
        return torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip or math.inf)

    def descend(self, share: float | Tensor, good: Tensor) -> None:
        """Step at `share` of the peak learning rate, unless `good` is false; clear the gradients."""
        descend(self.optimizer, share * self.settings.learning_rate, good)
