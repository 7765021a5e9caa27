"""What a discriminator says of samples: logits of one or several parts, and features for feature matching."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """The output of a discriminator that has several parts, or features. Others return their logits alone."""

    logits: tuple[Tensor, ...]
    """Logits of each part, positive for real samples; their shapes differ, the batch is their first axis."""
    features: tuple[tuple[Tensor, ...], ...] = ()
    """Feature maps of each part, from the first layer on."""

    @property
    def joined(self) -> Tensor:
        """The logits of all parts as one tensor: of a single part as they are, of several (B, N)."""
        if len(self.logits) == 1:
            return self.logits[0]
        return torch.cat([one.flatten(1) for one in self.logits], 1)


def verdict_of(output: Tensor | Verdict) -> Verdict:
    """The output of any discriminator as a Verdict."""
    return output if isinstance(output, Verdict) else Verdict((output,))
