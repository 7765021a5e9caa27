"""The loss scale that keeps gradients within the range of fp16."""

import torch
from torch import Tensor

GROW_AFTER = 2000
"""Consecutive finite updates after which the scale doubles."""


class LossScale:
    """A factor on the losses that is divided out of the gradients; each update with NaN or Inf gradients halves it.

    (Micikevicius et al. 2018, section 3.2.) It stays on its device and is the same on all ranks, as `good` is.
    """

    def __init__(self, device: torch.device):
        self.value = torch.tensor(2.0**16, device=device)
        self.good = torch.tensor(0, device=device)

    def update(self, good: Tensor) -> None:
        """Adjust the scale, given whether the update was done."""
        self.good.copy_(torch.where(good, self.good + 1, 0))
        grown = torch.where(self.good % GROW_AFTER == 0, 2.0, 1.0)
        self.value.mul_(torch.where(good, grown, 0.5))

    def state_dict(self) -> dict[str, Tensor]:
        """The scale, and for how many updates the gradients have been finite."""
        return {"value": self.value, "good": self.good}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load both."""
        self.value.copy_(state["value"])
        self.good.copy_(state["good"])
