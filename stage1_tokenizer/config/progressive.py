"""What progressive resolution (data.early_steps) asks of a tokenizer and its losses."""

import math

from data.config import DataConfig
from launch.command.checks import check
from stage1_tokenizer.config.losses import LossConfig
from stage1_tokenizer.config.model import ModelConfig

SMALLEST = 16
"""Pixels of each side that LPIPS's networks halve four times."""


def check_early(data: DataConfig, model: ModelConfig, loss: LossConfig, steps: int, cuda_graph: bool) -> None:
    """Raise ValueError for networks and losses that need pictures of one size, and where no step has large ones."""
    if not data.early_steps:
        return
    early, size = f"data.early_steps={data.early_steps}", data.early_size
    assert size is not None
    check("data.early_steps", data.early_steps, data.early_steps < steps, f"fewer than steps={steps}, or to 0")
    stride, least = math.lcm(*model.stride), SMALLEST if loss.perceptual.weight else 1
    rule = f"a multiple of {stride}, the model's stride" + f", from {least} on (LPIPS)" * (least > 1)
    check("data.early_size", size, size % stride == 0 and size >= least, rule)
    fixed = {
        f"model.backbone={model.backbone}": model.backbone == "vit",
        f"model.quantizer.kind={model.quantizer.kind}": model.quantizer.kind == "multiscale",
        f"loss.semantic.weight={loss.semantic.weight}": loss.semantic.weight > 0,
        "cuda_graph=true": cuda_graph,
    }
    for name in [name for name, there in fixed.items() if there]:
        raise ValueError(f"{early} is not supported with {name}, which needs pictures of one size: set it to 0")
    for suffix, adversarial in loss.adversaries.items():
        if adversarial.start < data.early_steps:
            raise ValueError(
                f"start={adversarial.start} of loss.adversarial{suffix} is before {early}, but discriminators see "
                f"pictures of one size: set it to {data.early_steps} or more"
            )
