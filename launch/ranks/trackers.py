"""The trackers of run.trackers: refused at the start where they can't work, never a reason to end a run later."""

from __future__ import annotations

import sys

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from launch.command.cli import UserError, reason
from launch.config import RunConfig

WAYS = {
    "tensorboard": "let this process write into {folder}/{project}",
    "wandb": "run `wandb login`, or set WANDB_MODE=offline",
}
"""What else to do about a tracker that can't start than to leave it out."""

INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""Their packages."""


def check(run: RunConfig) -> None:
    """UserError for a tracker that isn't installed, which accelerate would leave out."""
    there = {str(tracker) for tracker in get_available_trackers()}
    for name in run.trackers:
        if name not in there:
            raise UserError(
                f"run.trackers has {name}, which is not installed: `pip install {INSTALL[name]}`, "
                f"or set run.trackers to {_without(name, run)} (metrics.jsonl has every figure)"
            )


def start(accelerator: Accelerator, run: RunConfig) -> None:
    """Start the trackers, on rank 0. UserError for one that can't: not logged in, no network, a folder not writable."""
    requested, started = accelerator.log_with, []
    for tracker in requested:
        accelerator.log_with, accelerator.trackers = [tracker], []
        try:
            accelerator.init_trackers(run.project)
        except (Exception, SystemExit) as error:
            name = str(tracker)
            raise UserError(
                f"run.trackers has {name}, which can't start ({reason(error)}): "
                f"{WAYS[name].format(folder=run.folder, project=run.project)}, "
                f"or set run.trackers to {_without(name, run)} (metrics.jsonl has every figure)"
            ) from error
        started += accelerator.trackers
    accelerator.log_with, accelerator.trackers = requested, started


def finish(accelerator: Accelerator) -> None:
    """Let the trackers write what they still hold; what goes wrong with it is said."""
    for tracker in accelerator.trackers:
        try:
            tracker.finish()
        except Exception as error:
            print(f"warning: the tracker {tracker.name} has lost lines ({reason(error)})", file=sys.stderr, flush=True)


def _without(name: str, run: RunConfig) -> str:
    return f"[{', '.join(other for other in run.trackers if other != name)}]"
