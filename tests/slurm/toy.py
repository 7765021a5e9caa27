"""A real little training for the cluster tests: a linear map over ranks, with the project's order, run and checkpoint.

Each rank appends its samples to order.<rank>.txt beside RUN ("step sample sample …"), so that a test can tell if one
was lost or repeated across interruptions. At `trouble_at` one rank gets into trouble.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from dataclasses import dataclass
from typing import Any, Literal

from launch.checkpoints import store as checkpoint
from launch.command.cli import parse, run
from launch.config import RunConfig
from launch.run.runtime import Run
from launch.run.seeding import seed_step
from launch.run.starting import start_run

FEATURES, SAMPLES = 8, 1000


@dataclass(frozen=True)
class ToyConfig:
    """A training of seconds."""

    run: RunConfig
    """The run."""
    steps: int = 100
    """Steps to train."""
    batch_size: int = 16
    """Samples of the global batch."""
    dropout: float = 0.1
    """Share of the hidden units left out, by random numbers that differ by rank."""
    step_seconds: float = 0.0
    """Pause in each step, so that there is time to interrupt it."""
    trouble: Literal["none", "nan", "hang", "stop", "kill"] = "none"
    """What happens to the last rank at `trouble_at`: a loss that is no number, an endless loop, SIGSTOP, SIGKILL."""
    trouble_at: int = 10
    """The step of the trouble."""


def cause(trouble: str) -> float:
    """Get this rank into trouble; what its loss is multiplied with."""
    if trouble == "hang":
        while True:
            time.sleep(0.1)
    if trouble == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return math.nan if trouble == "nan" else 1.0


def train(config: ToyConfig) -> int:
    """Train to the end, or to a signal; final.json beside RUN tells the weights' hash and the losses' step."""
    import torch

    from data.order.sample_order import SampleOrder

    with start_run(config, config.run, free=("step_seconds", "trouble", "trouble_at")) as this:
        order = SampleOrder([SAMPLES // 4] * 4, seed=config.run.seed, batch_size=config.batch_size)
        raw = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, 16), torch.nn.Dropout(config.dropout), torch.nn.Linear(16, 1)
        )
        model, optimizer = this.accelerator.prepare(raw, torch.optim.AdamW(raw.parameters(), 1e-2))
        state: dict[str, Any] = {"model": raw, "optimizer": optimizer}
        step = first = checkpoint.load_latest(this.folder, state, this) or 0
        this.say(f"{this.world_size} ranks, from step {first}")
        table = torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(0))
        with (this.folder.parent / f"order.{this.rank}.txt").open("a") as seen:
            while True:
                stop, last = this.stopping(), step == config.steps
                if step > first and (stop or last or step % config.run.save_every == 0):
                    checkpoint.save(this.folder, step, state, this, keep=config.run.keep)
                if stop or last:
                    break
                seed_step(config.run.seed, this.rank, step)
                part = order.part(step, this.rank, this.world_size).samples
                index = torch.from_numpy(part[:, 0] * (SAMPLES // 4) + part[:, 1])
                seen.write(f"{step} {' '.join(map(str, index.tolist()))}\n")
                seen.flush()
                x_BC = table[index]
                loss = (model(x_BC).squeeze(1) - x_BC.sum(1)).square().mean()
                if step == config.trouble_at and this.rank == this.world_size - 1:
                    loss = loss * cause(config.trouble)
                this.accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                this.record({"loss/square": loss.detach()}, step=step, samples=config.batch_size)
                time.sleep(config.step_seconds)
                step += 1
        if step == config.steps:
            finish(this, raw, step)
        return this.exit_code


def finish(this: Run, model: Any, step: int) -> None:
    """Write the weights' hash on rank 0."""
    if this.is_main:
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
        (this.folder.parent / "final.json").write_text(json.dumps({"step": step, "sha256": digest}))


def main() -> int:
    """The command."""
    return train(parse(ToyConfig, prog="python -m tests.slurm.toy"))


if __name__ == "__main__":
    run(main)
