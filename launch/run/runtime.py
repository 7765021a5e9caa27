"""How a run starts, is steered and ends: ranks, devices, seeds, signals, its folder, its metrics.

with start_run(config, config.run) as run:
    ...
    for batch in batches:
        stop = run.stopping()                     # once a step, on every rank
        if due_save or stop: checkpoint.save(run.folder, step, state, run, keep=config.run.keep)
        if due_finish or stop: break
        run.record(parts, step=step, samples=B)   # stays on the device until a line is due
return run.exit_code                              # 0, or STOPPED after SIGTERM or SIGUSR1
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from launch.command.exit_codes import STOPPED
from launch.command.progress import Progress
from launch.config import FREE_KEYS, RunConfig
from launch.ranks import start as distributed
from launch.ranks.launcher import cores
from launch.ranks.reduce import total
from launch.ranks.vote import Vote, on_main
from launch.run import bad_updates as guard
from launch.run import folder
from launch.run.bad_updates import NotFiniteError as NotFiniteError
from launch.run.metrics import Means, MetricFile
from launch.run.seeding import seed_step
from launch.run.waiting import Waits, summary
from launch.run.watchdog import Watchdog

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor


LOSSES = "loss/"
"""What the names of recorded scalars begin with that must be finite."""


class Run:
    """A started run, as one of its ranks sees it. Made by start_run."""

    def __init__(self, config: RunConfig, accelerator: Accelerator, place: Path):
        self.config = config
        self.accelerator = accelerator
        self.folder = place
        self._asked, self._agreed = False, False
        self._means, self._metrics = Means(), MetricFile(place) if self.is_main else None
        self._samples, self._since = 0, time.monotonic()
        self._vote = Vote(self.world_size, self.device, self.rank)
        self.strategy = distributed.strategy(config)
        """How the ranks share the model: run.strategy, or what the accelerate file says."""
        self.background_vote = (
            Vote(self.world_size, self.device, self.rank, apart=True) if config.save_in_background else None
        )
        """Agreement for the thread that writes checkpoints, where run.save_in_background."""
        self.unfinished: Callable[[], object] | None = None
        """Waits for the checkpoint that is being written, and tells what became of it."""
        self._watchdog = Watchdog(config.watchdog, self.rank)
        self._waits = Waits()
        self._guard = guard.Guard()

    @property
    def vote(self) -> Vote:
        """Agreement of the ranks over the CPU."""
        return self._vote

    def finish_saving(self) -> None:
        """Wait until the checkpoint that is being written in the background is there, on every rank.

        Raises UserError where it can't be written and run.on_save_error is stop.
        """
        unfinished, self.unfinished = self.unfinished, None
        if unfinished is not None:
            unfinished()

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """This process's number among all ranks, from 0."""
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.accelerator.is_main_process

    @property
    def exit_code(self) -> int:
        """What the command returns: 0, or STOPPED where a signal ended the run early."""
        return STOPPED if self._agreed else 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The region in which networks compute in run.precision."""
        import torch

        if self.config.precision == "fp16":  # accelerate has it on GPUs only, with a loss scale of its own
            return torch.autocast(self.device.type, torch.float16)
        return self.accelerator.autocast()

    def close(self) -> None:
        """End what watches the run; start_run does it."""
        self._watchdog.close()

    def ask_to_stop(self) -> None:
        """What SIGTERM and SIGUSR1 do on the rank that gets them: the run stops at the next step boundary."""
        self._asked = True

    def stopping(self) -> bool:
        """Whether the run should save and end now: the same answer on every rank.

        Call it once per step, on every rank. It doesn't wait for the GPU: the ranks agree over the CPU.
        """
        self._watchdog.alive()
        self._waits.batch_came()
        began = time.monotonic()
        self._agreed = self._agreed or self._vote.any(self._asked)
        self._waits.met(time.monotonic() - began)
        return self._agreed

    @property
    def data_seed(self) -> int:
        """Seed of the samples' order: run.seed, and another one after each turn back to a checkpoint."""
        return guard.data_seed(self.config.seed, self.folder)

    def check_finite(self) -> None:
        """Raise NotFiniteError on every rank where losses recorded since the last log line aren't finite; it waits.

        With skipped updates (`record`'s `good`), only where more than run.skip_limit were skipped in a row.
        """
        names = self.gather(self._means.not_finite(LOSSES))
        self._guard.check(self, next((f" ({', '.join(bad)} on rank {r})" for r, bad in enumerate(names) if bad), ""))

    def turn_back(self, error: NotFiniteError) -> None:
        """Note that the run goes back to its newest checkpoint; where it did so too often, raise what is the matter."""
        guard.note_rollback(self, error)
        self._means, self._guard = Means(), guard.Guard()

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
        self._watchdog.alive()
        if self._metrics is not None:
            numbers = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
            self._metrics.write(step, numbers, kind)
            if self.config.trackers:
                self.accelerator.log(numbers, step=step)

    def note(self, step: int, events: Mapping[str, str]) -> None:
        """Say what happened at a step, by name, and write it into metrics.jsonl (kind "event"), on rank 0."""
        for text in events.values():
            self.say(f"step {step}: {text}")
        if self._metrics is not None and events:
            self._metrics.write(step, events, "event")

    def say(self, text: str) -> None:
        """Tell the user something: on stderr and in log.txt, from rank 0 only."""
        if self.is_main:
            print(text, file=sys.stderr, flush=True)
            with contextlib.suppress(OSError), (self.folder / folder.LOG).open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def progress(self, title: str, total: int | None, *, unit: str, start: int = 0) -> Progress:
        """A progress display that only rank 0 shows."""
        return Progress(title, total, unit=unit, start=start, enabled=self.is_main)

    def alive(self) -> None:
        """A sign of life for the watchdog, for work between two steps that takes long."""
        self._watchdog.alive()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self._watchdog.alive()
        self.accelerator.wait_for_everyone()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable object, on every rank."""
        return self._vote.broadcast(value)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable object, by rank, on every rank."""
        return self._vote.gather(value)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks (the tensor itself on one)."""
        self._watchdog.alive()
        return total(tensor, self.world_size)


@contextlib.contextmanager
def start_run(
    config: Any, run: RunConfig, *, free: Sequence[str] = (), strategies: Sequence[str] = ("ddp",)
) -> Iterator[Run]:
    """Start a run, on every rank: process group, seeds, folder, signals, trackers; at the end, close them all.

    `config` is the whole configuration (a dataclass), saved in the folder; `free` names dotted keys on which the result
    doesn't depend, besides FREE_KEYS; `strategies` are those of launch.strategies that the training supports. Raises
    UserError where the launch isn't the requested one, or the folder belongs to another configuration or process.
    An exception on one rank ends all of them with its reason printed.
    """
    import torch

    outside = torch.distributed.is_initialized()
    accelerator = distributed.start(run, strategies)
    place = Path(run.folder)
    opened = on_main(accelerator, lambda: _open_folder(place, config, run, (*FREE_KEYS, *free), accelerator))
    _seed(run, accelerator)
    if run.trackers:
        accelerator.init_trackers(run.project)
    this = Run(run, accelerator, place)
    _warn_of_idle_cores(this)
    for key, (before, after) in (opened[1] if opened else {}).items():
        this.say(f"the run goes on with {key}={after!r}, until now {before!r}")
    try:
        with _signals(this), distributed.failing_together(accelerator):
            yield this
            this.finish_saving()
        this.barrier()
        distributed.end(accelerator, close_group=not outside)
    finally:
        this.close()
    if opened is not None:
        opened[0].close()


def _open_folder(
    place: Path, config: Any, run: RunConfig, free: Sequence[str], accelerator: Accelerator
) -> tuple[Any, dict[str, list[Any]]]:
    """The folder's lock, and which settings run.allow_changes let change."""
    held = folder.lock(place)
    changed = folder.adopt(place, config, free, run.allow_changes)
    extra = {"changed": changed} if changed else {}
    folder.record_start(place, world_size=accelerator.num_processes, device=str(accelerator.device.type), **extra)
    return held, changed


def _seed(run: RunConfig, accelerator: Accelerator) -> None:
    """The same generators on every rank, so that initial weights agree; seed_step then differs by rank."""
    import torch

    seed_step(run.seed, 0, 0)
    if run.deterministic and accelerator.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def _warn_of_idle_cores(run: Run) -> None:
    import torch

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    used = torch.get_num_threads() * local
    if run.device.type == "cpu" and used < cores() and "ACCELERATE_MIXED_PRECISION" in os.environ:
        run.say(
            f"note: {used} of {cores()} cores are used (OMP_NUM_THREADS={torch.get_num_threads()}; accelerate launch "
            f"sets 1 unless told): set OMP_NUM_THREADS, or start with python -m launch.local"
        )


@contextlib.contextmanager
def _signals(run: Run) -> Iterator[None]:
    """SIGTERM and SIGUSR1 become a request to stop, until the process ends: a launcher may send a second one."""

    def ask(number: int, frame: FrameType | None) -> None:
        run.ask_to_stop()

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, ask)
    yield
    # SLURM signals the ranks and their launcher, which passes it on: the second one must not kill a rank that is
    # leaving. Python's own ending puts back the default of every handler but this.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
