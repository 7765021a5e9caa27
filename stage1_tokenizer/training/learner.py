"""A network with its optimizer, and the wrapper that trains it on several ranks."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launch.checkpoints.pieces import PieceState, Reader
from launch.checkpoints.store import Stateful
from launch.config import OptimizerConfig
from launch.run.runtime import Run
from launch.run.schedule import descend
from launch.strategies.aside import MOMENTS
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


def named_moments(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """What an AdamW's state_dict holds, by the names of a checkpoint in pieces.

    `shapes` are those of the weights that it trains, in its order. One that took no step has no state: zeros.
    """
    known = state["state"]
    steps = next((float(one["step"]) for one in known.values()), 0.0)
    found = {"steps": torch.tensor([steps])}
    for number, (name, shape) in enumerate(shapes.items()):
        for key in MOMENTS:
            found[f"{key}/{name}"] = known[number][key] if number in known else torch.zeros(shape)
    return found


class OptimizerState:
    """A Learner's optimizer in a checkpoint: its state_dict, or what was saved in pieces."""

    def __init__(self, optimizer: torch.optim.Optimizer, raw: nn.Module):
        self._optimizer = optimizer
        self._names = [name for name, weight in raw.named_parameters() if weight.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load it."""
        self._optimizer.load_state_dict(state)

    def from_pieces(self, read: Reader) -> dict[str, Any]:
        """A state_dict of what a checkpoint holds in pieces."""
        state = {
            number: {"step": read.whole("steps")[0].clone(), **{key: read.whole(f"{key}/{name}") for key in MOMENTS}}
            for number, name in enumerate(self._names)
        }
        return {"state": state, "param_groups": self._optimizer.state_dict()["param_groups"]}


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

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors of the network's state."""
        return {name: tuple(tensor.shape) for name, tensor in self.raw.state_dict().items()}

    def state(self, name: str) -> dict[str, Stateful | PieceState]:
        """The parts of a checkpoint: the network under this name, and its optimizer."""
        return {name: self.raw, f"{name}_optimizer": OptimizerState(self.optimizer, self.raw)}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with the weights of another network."""
        self.raw.load_state_dict(weights)

    def gathered(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, the weights can be read; here, always."""
        return contextlib.nullcontext()

    def clip(self, scale: Tensor | None = None) -> Tensor | None:
        """Divide the gradients by a loss scale and clip their norm; the norm before clipping."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if scale is not None:
            torch._foreach_div_([parameter.grad for parameter in parameters if parameter.grad is not None], scale)
        return torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip or math.inf)

    def descend(self, share: float | Tensor, good: Tensor) -> Tensor | None:
        """Step at `share` of the peak learning rate, unless `good` is false; clear the gradients.

        The norm of the gradients, where `clip` couldn't give it.
        """
        descend(self.optimizer, share * self.settings.learning_rate, good)
        return None
