"""The prior's optimizer, and its averaged weights."""

import torch
from torch import nn

from launch.config import OptimizerConfig
from launch.strategies.averages import SharedEma


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over a model's parameters; matrices decay, embeddings and norms don't."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    free = [weight for weight in trained if weight.ndim < 2 or id(weight) in embeddings]
    decayed = [weight for weight in trained if weight.ndim >= 2 and id(weight) not in embeddings]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


class PriorEma(SharedEma):
    """Averaged weights of a prior: each rank averages the weights that it holds."""
