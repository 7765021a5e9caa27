"""Seeds of one step's noise."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_step(seed: int, rank: int, step: int) -> None:
    """Set torch's, numpy's and Python's generators for one step's model noise, a function of (seed, rank, step).

    Called before every step, so that a continued run draws what the uninterrupted one did, with no saved state.
    """
    words = np.random.SeedSequence([seed, rank, step]).generate_state(3)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(int(words[2]))
    random.seed(int(words[2]))
