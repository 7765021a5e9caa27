"""Activation checkpointing: modules that recompute their activations in the backward pass instead of storing them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A module that with `recompute` stores only its inputs for the backward pass: same results, more computation."""

    recompute = False

    def __call__(self, *inputs: Any) -> Any:
        """Call the module, under a checkpoint if `recompute` is set and gradients are needed."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)


def recompute_activations(module: nn.Module) -> None:
    """Set `recompute` in every recomputable part of a network."""
    for part in module.modules():
        if isinstance(part, Recomputable):
            part.recompute = True
