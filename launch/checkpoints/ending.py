"""How a training ends: what it says, and the command's exit code. The same in both stages."""

from __future__ import annotations

from launch.checkpoints import folders
from launch.run.runtime import Run


def ending(run: Run, step: int, began: int, steps: int) -> int:
    """Say how a training ended that went on from step `began` and did `step` of its `steps`; its exit code.

    A training that was finished when it was asked to stop is finished: 0.
    """
    run.finish_saving()
    if step >= steps:
        return 0
    if step == began:
        how = "before its first step, there was nothing to save" if began == 0 else "before a further step"
    else:
        saved = step in folders.steps(run.folder) if run.is_main else False
        how = "with a checkpoint" if saved else "without a checkpoint of it"
    run.say(f"stopped at step {step}, {how}; rerun the same command to resume")
    return run.exit_code
