"""A network's optimizer."""

import torch
from torch import nn

from launch.config import OptimizerConfig
from stage1_tokenizer.training.learner import build_optimizer


def test_settings_that_a_resumed_run_may_change_take_effect() -> None:
    module = nn.Linear(2, 2)
    before = build_optimizer(module, OptimizerConfig(beta1=0.5, beta2=0.9, weight_decay=0.0))
    module(torch.ones(1, 2)).sum().backward()
    before.step()
    after = build_optimizer(module, OptimizerConfig(beta1=0.9, beta2=0.95, weight_decay=0.1))
    after.load_state_dict(before.state_dict())
    (group,) = after.param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.95), 0.1)
    moments = [after.state[weight]["exp_avg"] for weight in module.parameters()]
    assert all(torch.equal(m, before.state[w]["exp_avg"]) for m, w in zip(moments, module.parameters(), strict=True))
