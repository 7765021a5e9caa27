"""Checkpoints that are whole or absent: written aside, hashed, fsynced, renamed; damaged ones are passed over.

RUN/checkpoints/step-000001234/
    manifest.json     {"format": 1, "step": …, "world_size": …, "files": {NAME: {"size": …, "sha256": …}}}
    <name>.pt         the state_dict of what the call names, by torch.save; read with weights_only=True
    <name>.rank3.pt   the same for state that differs by rank
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data.cli import UserError

if TYPE_CHECKING:
    from launch.runtime import Run

MANIFEST = "manifest.json"
FORMAT = 1


class Stateful(Protocol):
    """Anything whose state is a dictionary of tensors and plain values: modules, optimizers, schedules, EMA."""

    def state_dict(self) -> dict[str, Any]:
        """The state; tensors, numbers, strings, lists and dictionaries only."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take the state back."""
        ...


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Stateful],
    run: Run | None = None,
    *,
    keep: int = 2,
    per_rank: Mapping[str, Stateful] | None = None,
) -> Path:
    """Write the run's checkpoint of `step` (steps done so far) and delete all but the `keep` newest; its folder.

    `state` is the same on every rank and written by rank 0 while the others wait; `per_rank` is written by each rank.
    A model wrapped for several ranks is saved as the model inside, so that another number of ranks can load it.
    """
    raise NotImplementedError


def load_latest(
    folder: Path,
    state: Mapping[str, Stateful],
    run: Run | None = None,
    *,
    per_rank: Mapping[str, Stateful] | None = None,
) -> int | None:
    """Load the run's newest checkpoint that is whole into `state`, on every rank; its step, or None without one.

    Each damaged one is passed over with a warning that says why. Raises UserError where the checkpoint holds other
    parts than `state` names.
    """
    raise NotImplementedError
