"""What a batch is, and how samples' bytes become its rows.

Shapes: B batch (this rank's part), C channels, H W pixels, h w latent grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

ArrayT = TypeVar("ArrayT", torch.Tensor, np.ndarray)


@dataclass(frozen=True)
class Room(Generic[ArrayT]):
    """A batch that is being filled."""

    rows: ArrayT
    captions: list[str]

    def chosen(self, rows: list[int] | None) -> tuple[ArrayT, list[str]]:
        """What is in the rows that count; None: in all."""
        if rows is None:
            return self.rows, self.captions
        return self.rows[rows], [self.captions[row] for row in rows]
