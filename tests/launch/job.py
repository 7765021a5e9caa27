"""A command for the launcher's tests: a run that does nothing but what its options ask."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import torch

from launch.checkpoints import store as checkpoint
from launch.checkpoints.ending import ending
from launch.command.cli import UserError, parse, run
from launch.config import RunConfig
from launch.run.starting import start_run


@dataclass(frozen=True)
class JobConfig:
    """A run without work."""

    run: RunConfig
    """The run."""
    mistake: bool = False
    """Every rank meets a user's mistake."""
    fail_rank: int = -1
    """The rank that raises at step 3."""
    kill_rank: int = -1
    """The rank that dies at step 3."""
    signal_rank: int = -1
    """The rank that gets a signal at step 3."""
    launcher: bool = False
    """Whether the signal goes to the launcher instead."""
    steps: int = 100000
    """Steps until the run ends by itself."""
    slow: float = 0.0
    """Seconds that writing a checkpoint takes."""


@dataclass
class State:
    """A part of a checkpoint that takes its time."""

    slow: float

    def state_dict(self) -> dict[str, float]:
        time.sleep(self.slow)
        return {"slow": self.slow}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        assert list(state_dict) == ["slow"]


def act(config: JobConfig, rank: int) -> None:
    if rank == config.fail_rank:
        raise RuntimeError("the paper jam")
    if rank == config.kill_rank:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == config.signal_rank:
        os.kill(os.getppid() if config.launcher else os.getpid(), signal.SIGUSR1)


def main() -> int:
    config = parse(JobConfig, prog="tests.launch.job")
    if config.mistake:
        raise UserError("mistake=True is not wanted: leave it away")
    with start_run(config, config.run, free=["signal_rank", "steps", "slow"]) as run:
        state = {"state": State(config.slow)}
        first = step = checkpoint.load_latest(run.folder, state, run) or 0
        total = 0.0
        while not run.stopping() and step < config.steps:
            if step == 3:
                act(config, run.rank)
            total = float(run.sum(torch.ones(1)))
            run.record({"ranks": total, "rank": run.rank}, step=step, samples=4)
            step += 1
        if step > first:
            checkpoint.save(run.folder, step, state, run)
        run.say(f"{run.world_size} ranks, sum {total}, from step {first}")
        return ending(run, step, first, config.steps)


if __name__ == "__main__":
    run(main)
