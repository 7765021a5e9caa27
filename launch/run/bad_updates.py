"""Updates that are skipped because their gradients are infinite or no numbers, counted without waiting for the device.

A few in a row are borne; more of them end the training at hand, which then goes back to its newest checkpoint and takes
another order of samples, so as not to meet the same ones again; after some such turns the run stops.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.files.atomic import write_atomically

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from launch.run.runtime import Run

FILE = "rollbacks.json"
SEED_STEP = 1_000_003
"""What each turn back adds to the seed of the samples' order."""


class NotFiniteError(RuntimeError):
    """A loss or a gradient is infinite or not a number."""


class Guard:
    """Counts skipped updates on the device. All ranks add the same, as `all_finite` gives it."""

    def __init__(self) -> None:
        self.watching = False
        self.skipped = 0
        self._new: Any = 0
        self._in_a_row: Any = 0

    def add(self, good: Tensor) -> None:
        """Take in whether an update was done: a boolean of one element, on its device."""
        import torch

        self.watching = True
        self._new = self._new + ~good
        self._in_a_row = torch.where(good, 0, self._in_a_row + 1)

    def check(self, run: Run, where: str) -> None:
        """Say what was skipped since the last call, and raise NotFiniteError where it was too much; it waits.

        `where` names the losses that weren't finite, or is empty. Where no updates were watched, one such loss is too
        much.
        """
        if not self.watching and where:
            raise NotFiniteError(f"a loss is not finite{where}: lower the learning rate, or look at the newest data")
        new, in_a_row = int(self._new), int(self._in_a_row)
        self.skipped, self._new = self.skipped + new, 0
        if new:
            run.say(f"{new} update{'s' if new > 1 else ''} skipped, whose gradients were not finite{where}")
        if in_a_row > run.config.skip_limit:
            raise NotFiniteError(f"{in_a_row} updates in a row had gradients that are not finite{where}")


def step_if(good: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of a fused optimizer that leaves weights and moments as they are unless `good`, without waiting for it."""
    optimizer.grad_scale = None  # type: ignore[attr-defined]  # what torch's own GradScaler tells fused optimizers by
    optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
    optimizer.step()


def rollbacks(folder: Path) -> list[dict[str, Any]]:
    """The run's turns back so far, oldest first, with what made them necessary."""
    path = folder / FILE
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


def data_seed(seed: int, folder: Path) -> int:
    """Seed of the samples' order of a run in its folder: another one after each turn back."""
    return seed + SEED_STEP * len(rollbacks(folder))


def until_done(run: Run, attempt: Callable[[], int]) -> int:
    """What `attempt`, a whole training from the newest checkpoint, returns: after NotFiniteError it begins again.

    Each begins with the same seeds, so that networks built in it have the same first weights on every rank.
    """
    from launch.run.seeding import seed_step

    while True:
        seed_step(run.config.seed, 0, 0)
        try:
            return attempt()
        except NotFiniteError as error:
            if run.strategy.startswith("zero") and run.world_size > 1:  # DeepSpeed's engine can't be made anew
                raise
            run.turn_back(error)


def note_rollback(run: Run, error: NotFiniteError) -> None:
    """Note a turn back, on every rank alike. Raises NotFiniteError, with a way out, where run.rollbacks are used up."""
    done = rollbacks(run.folder)
    if len(done) >= run.config.rollbacks:
        raise NotFiniteError(
            f"{error}, after {len(done)} turns back to a checkpoint: lower the learning rate, set run.precision=fp32, "
            f"or raise run.rollbacks={run.config.rollbacks}"
        ) from error
    run.barrier()
    if run.is_main:
        write_atomically(run.folder / FILE, json.dumps([*done, {"why": str(error)}], indent=2) + "\n")
    run.barrier()
    run.say(f"{error}: going back to the newest checkpoint, with another order of samples")
