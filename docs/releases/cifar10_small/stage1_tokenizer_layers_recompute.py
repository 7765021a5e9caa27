# Made from stage1_tokenizer.layers.recompute of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
import torch
from torch.utils.checkpoint import checkpoint
from typing import Any


class Recomputable(nn.Module):
    """A module that with `recompute` stores only its inputs for the backward pass: same results, more computation."""

    recompute = False

    def __call__(self, *inputs: Any) -> Any:
        """Call the module, under a checkpoint if `recompute` is set and gradients are needed."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)
