"""What a transformer of a prior does for each code, from which its cost is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """The work of one transformer for each code of a picture."""

    transformer: Any
    """A stock model."""
    tokens: float
    """Its tokens for each code."""
    attended: float
    """Tokens that each of them attends to, on average."""
    idle: int = 0
    """Weights of its output layer that a token is not multiplied by."""
