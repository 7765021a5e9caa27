"""A started run, as one of its ranks sees it: its device, its agreement with the other ranks, its metrics."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from launch.command.cli import reason
from launch.command.exit_codes import STOPPED
from launch.command.progress import Progress
from launch.config import RunConfig
from launch.files.atomic import write_file
from launch.ranks import start as distributed
from launch.ranks.joined import Ranks
from launch.ranks.vote import Vote
from launch.run import bad_updates, folder
from launch.run.bad_updates import NotFiniteError
from launch.run.garbage import Garbage
from launch.run.means import Means
from launch.run.metrics import MetricFile
from launch.run.waiting import Waits, summary
from launch.run.watchdog import Watchdog

LOSSES = "loss/"
"""Prefix of the recorded scalars that must be finite."""


class Run(Ranks):
    """A started run, as one of its ranks sees it; start_run builds it."""

    def __init__(self, config: RunConfig, accelerator: Accelerator, place: Path):
        super().__init__(accelerator)
        self.config = config
        self.folder = place
        self._asked, self._agreed = 0, 0  # exit codes
        self._means, self._metrics = Means(), MetricFile(place) if self.is_main else None
        self._samples, self._since, self._untracked = 0, time.monotonic(), False
        self.strategy = distributed.strategy(config)
        """How the ranks share the model: run.strategy, or what the accelerate file says."""
        self.background_vote = Vote(accelerator, apart=True) if config.save_in_background else None
        """Agreement for the thread that writes checkpoints, where run.save_in_background."""
        self.unfinished: Callable[[], object] | None = None
        """Waits for the checkpoint that is being written, and reports how it went."""
        self._watchdog = Watchdog(config.watchdog, self.rank)
        self._waits = Waits()
        self._guard = bad_updates.Guard()
        self._garbage = Garbage()

    def finish_saving(self) -> None:
        """Wait until the checkpoint that is being written in the background is there, on every rank.

        Raises UserError where it can't be written and run.on_save_error is stop.
        """
        unfinished, self.unfinished = self.unfinished, None
        if unfinished is not None:
            unfinished()

    @property
    def exit_code(self) -> int:
        """What the command returns: 0, or STOPPED or INTERRUPTED where that ended the run early."""
        return self._agreed

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The region in which networks compute in run.precision."""
        if self.config.precision == "fp16":  # accelerate has it on GPUs only, with a loss scale of its own
            return torch.autocast(self.device.type, torch.float16)
        return self.accelerator.autocast()

    def close(self) -> None:
        """Stop the watchdog, and leave the garbage to Python again; start_run calls it."""
        self._watchdog.close()
        self._garbage.close()

    def request_stop(self, code: int = STOPPED) -> None:
        """What signals do on the rank that gets them: the run stops at the next step boundary, with this exit code."""
        self._asked = max(self._asked, code)

    def stopping(self) -> bool:
        """Whether the run should save and end now: the same answer on every rank.

        Call it once per step, on every rank. It doesn't wait for the GPU: the ranks agree over the CPU.
        """
        self._watchdog.heartbeat()
        self._waits.batch_came()
        began = time.monotonic()
        self._agreed = self._agreed or self.vote.largest(self._asked)
        self._waits.met(time.monotonic() - began)
        return self._agreed != 0

    @property
    def data_seed(self) -> int:
        """Seed of the samples' order: run.seed, and another one after each rollback."""
        return self.config.seed + bad_updates.SEED_STEP * len(bad_updates.rollbacks(self.folder))

    def check_finite(self) -> None:
        """Raise NotFiniteError on every rank where losses recorded since the last log line aren't finite; it waits.

        With skipped updates (`record`'s `good`), only where more than run.skip_limit were skipped in a row.
        """
        names = self.gather(self._means.not_finite(LOSSES))
        where = next((f" ({', '.join(bad)} on rank {rank})" for rank, bad in enumerate(names) if bad), "")
        self._guard.check(self.say, self.config.skip_limit, where)

    def turn_back(self, error: NotFiniteError) -> None:
        """Note a rollback to the newest checkpoint. Raises NotFiniteError where run.rollbacks are used up."""
        done = bad_updates.rollbacks(self.folder)
        if len(done) >= self.config.rollbacks:
            raise NotFiniteError(
                f"{error}, after {len(done)} rollbacks to a checkpoint: lower the learning rate, set "
                f"run.precision=fp32, or raise run.rollbacks={self.config.rollbacks}"
            ) from error
        self.barrier()
        if self.is_main:
            text = json.dumps([*done, {"why": str(error)}], indent=2) + "\n"
            write_file(self.folder / bad_updates.FILE, text)
        self.barrier()
        self.say(f"{error}: rolling back to the newest checkpoint, with another order of samples")
        self._means, self._guard = Means(), bad_updates.Guard()
        self._garbage.close()  # the networks of this attempt are garbage now

    def record(
        self,
        values: Mapping[str, Tensor | float],
        *,
        step: int,
        samples: int = 0,
        unit: str = "pictures",
        good: Tensor | None = None,
    ) -> dict[str, float] | None:
        """Add one step's scalars to the means; every `log_every`-th step logs them, returns them and starts anew.

        `samples` is the step's global number of samples and gives `rate/<unit>_per_second`. `good` says whether the
        update was done or skipped (launch.run.bad_updates). Every rank calls it alike.
        """
        self._watchdog.step_done()
        self._garbage.step_done()
        self._means.add(values, self.device)
        if good is not None:
            self._guard.add(good)
        self._samples += samples
        logged = None
        if (step + 1) % self.config.log_every == 0:
            self.check_finite()
            means = self._means.take(self.world_size)
            now = time.monotonic()
            if self._samples:
                means[f"rate/{unit}_per_second"] = self._samples / max(now - self._since, 1e-9)
            self._samples, self._since = 0, now
            if self._guard.watching:
                means["updates/skipped"] = self._guard.skipped
            logged = {**means, **summary(self.gather(self._waits.take()))}
            self.log(step, logged, kind="train")
        self._waits.step_ended()
        return logged

    def log(self, step: int, values: Mapping[str, Tensor | float], kind: str = "eval") -> None:
        """Write one line to metrics.jsonl and to the trackers, on rank 0; the others do nothing."""
        self._watchdog.heartbeat()
        if self._metrics is not None:
            numbers = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
            self._metrics.write(step, numbers, kind)
            self._track(step, numbers)

    def _track(self, step: int, numbers: Mapping[str, float]) -> None:
        try:
            self.accelerator.log(dict(numbers), step=step)
        except Exception as error:  # a full disk, a network that is gone: metrics.jsonl has the line
            if not self._untracked:
                self.say(f"warning: run.trackers={self.config.trackers} can't take step {step} ({reason(error)})")
            self._untracked = True

    def note(self, step: int, events: Mapping[str, str]) -> None:
        """Say what happened at a step, by name, and write it into metrics.jsonl (kind "event"), on rank 0."""
        for text in events.values():
            self.say(f"step {step}: {text}")
        if self._metrics is not None and events:
            self._metrics.write(step, events, "event")

    def say(self, text: str) -> None:
        """Print a line on stderr and in log.txt, from rank 0 only."""
        if self.is_main:
            print(text, file=sys.stderr, flush=True)
            with contextlib.suppress(OSError), (self.folder / folder.LOG).open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def progress(self, title: str, total: int | None, *, unit: str, start: int = 0) -> Progress:
        """A progress display that only rank 0 shows."""
        return Progress(title, total, unit=unit, start=start, enabled=self.is_main)

    def heartbeat(self) -> None:
        """A sign of life for the watchdog, during long work between two steps."""
        self._watchdog.heartbeat()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self._watchdog.heartbeat()
        self.accelerator.wait_for_everyone()
