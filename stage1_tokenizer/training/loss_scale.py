"""The scale that keeps gradients inside fp16's range."""

from __future__ import annotations

import torch
from torch import Tensor

GROW_AFTER = 2000
"""Updates in a row after which the scale doubles."""


class LossScale:
    """A factor on losses, taken off the gradients again: halved at each update whose gradients aren't finite.

    (Micikevicius et al. 2018, section 3.2.) It stays on its device and is the same on all ranks, as `good` is.
    """

    def __init__(self, device: torch.device):
        self.value = torch.tensor(2.0**16, device=device)
        self.good = torch.tensor(0, device=device)

    def update(self, good: Tensor) -> None:
        """Take in whether an update was done."""
        self.good = torch.where(good, self.good + 1, 0)
        grown = torch.where(self.good % GROW_AFTER == 0, 2.0, 1.0)
        self.value = self.value * torch.where(good, grown, 0.5)

    def state_dict(self) -> dict[str, Tensor]:
        """The scale and how long it has been good."""
        return {"value": self.value, "good": self.good}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take them back."""
        self.value, self.good = state["value"].to(self.value.device), state["good"].to(self.good.device)
