"""Averaged weights: what is evaluated and released."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from stage1_tokenizer.tokenizer.model import Tokenizer


class Ema:
    """A frozen copy of a tokenizer whose weights follow: mean ← d·mean + (1 - d)·weights, d = min(decay, (1+t)/(10+t)).

    t is the step, so that the first weights are soon forgotten. Floating-point buffers (a codebook learned by moving
    averages) follow in the same way, the other buffers are copied. decay 0: always the weights themselves.
    """

    def __init__(self, tokenizer: Tokenizer, decay: float):
        self.decay = decay
        self.tokenizer: Tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, tokenizer: nn.Module, step: int) -> None:
        """Take in the weights after `step`; nothing waits for the device."""
        decay = min(self.decay, (1 + step) / (10 + step))
        means, news = [], []
        pairs = zip(_tensors(self.tokenizer), _tensors(tokenizer), strict=True)
        for mean, new in pairs:
            if mean.is_floating_point():
                means.append(mean)
                news.append(new)
            else:
                mean.copy_(new)
        torch._foreach_lerp_(means, news, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.tokenizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.tokenizer.load_state_dict(state)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
