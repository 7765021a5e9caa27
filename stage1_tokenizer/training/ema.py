"""A tokenizer with averaged weights: what is evaluated and released."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from launch.run.ema import Ema
from stage1_tokenizer.tokenizer.model import Tokenizer


class TokenizerEma(Ema):
    """A frozen copy of a tokenizer whose weights, and a codebook learned by moving averages, follow the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, decay: float):
        self.tokenizer: Tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.eval().requires_grad_(False)
        super().__init__(decay, lambda: _tensors(self.tokenizer), lambda: _tensors(tokenizer))

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.tokenizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load averaged weights."""
        self.tokenizer.load_state_dict(state)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
