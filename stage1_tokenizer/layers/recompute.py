"""Activation checkpointing: parts whose inner activations are computed anew in the backward instead of being kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A part that, once `recompute` is set, keeps only its inputs for the backward; the same numbers, more work."""

    recompute = False

    def __call__(self, *inputs: Any) -> Any:
        """As of any module."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)


def recompute_activations(module: nn.Module) -> None:
    """Set it in every part of a network that can."""
    for part in module.modules():
        if isinstance(part, Recomputable):
            part.recompute = True
