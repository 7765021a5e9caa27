"""The parts of an optimizer step that are functions or small states of their own: rate, parameter groups, averages."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from stage2_prior.config import PriorOptimizerConfig


def learning_rate(config: PriorOptimizerConfig, step: int, steps: int) -> float:
    """The rate of a step in [0, steps): linear warm-up, then a cosine down to final_share. A function, not a state."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps))
    share = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def build_optimizer(model: nn.Module, config: PriorOptimizerConfig) -> torch.optim.AdamW:
    """AdamW over a model's parameters; matrices decay, embeddings and norms don't."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    free = [weight for weight in model.parameters() if weight.ndim < 2 or id(weight) in embeddings]
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2 and id(weight) not in embeddings]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameter groups a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """Averaged weights: mean ← d·mean + (1 - d)·weights, with d = min(decay, (1 + step)/(10 + step)).

    `model` is a frozen copy that carries them, in evaluation mode.
    """

    def __init__(self, model: Model, decay: float):
        self.decay = decay
        self.model: Model = copy.deepcopy(model)
        self.model.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        means = [mean.detach() for mean in self.model.parameters()]
        weights = [weight.detach() for weight in model.parameters()]
        torch._foreach_lerp_(means, weights, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.model.load_state_dict(state)
