# Made from stage1_tokenizer.recompute of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
import torch
from torch.utils.checkpoint import checkpoint
from typing import Any


class Recomputable(nn.Module):
    """A part that, once `recompute` is set, keeps only its inputs for the backward; the same numbers, more work."""

    recompute = False

    def __call__(self, *inputs: Any) -> Any:
        """As of any module."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)
