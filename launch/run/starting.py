"""How a run starts and ends: ranks, seeds, signals, its folder, and its rollbacks. docs/training.md shows a loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from launch.command import interrupts
from launch.command.cores import cores
from launch.command.exit_codes import INTERRUPTED
from launch.config import FREE_KEYS, RunConfig
from launch.ranks import start as distributed
from launch.ranks import trackers
from launch.ranks.vote import on_main
from launch.run import folder
from launch.run.bad_updates import NotFiniteError
from launch.run.data import Recorded, check_data, keep_data
from launch.run.runtime import Run
from launch.run.seeding import seed_step

ASKED = b"\nCtrl-C: the run saves and stops after this step; press it again to end at once, without saving\n"


@contextlib.contextmanager
def start_run(
    config: Any,
    run: RunConfig,
    *,
    free: Sequence[str] = (),
    strategies: Sequence[str] = ("ddp",),
    data: Mapping[str, Recorded] | None = None,
) -> Iterator[Run]:
    """Start a run, on every rank: process group, seeds, folder, signals, trackers; at the end, close them all.

    `config` is the whole configuration (a dataclass), saved in the folder; `free` names dotted keys on which the result
    doesn't depend, besides FREE_KEYS; `strategies` are those of launch.strategies that the training supports; `data` is
    what the data settings name (launch.run.data). Raises UserError where the launch isn't the requested one, or the
    folder belongs to another configuration, other data or another process.
    An exception on one rank ends all of them with its reason printed.
    """
    outside = torch.distributed.is_initialized()
    accelerator = distributed.start(run, strategies)
    place = Path(run.folder)
    opened = on_main(
        accelerator, lambda: _open_folder(place, config, run, (*FREE_KEYS, *free), accelerator, data or {})
    )
    _seed(run, accelerator)
    on_main(accelerator, lambda: trackers.start(accelerator, run))
    started = Run(run, accelerator, place)
    _warn_of_idle_cores(started)
    for note in opened[1] if opened else ():
        started.say(note)
    try:
        with _signals(started), distributed.failing_together(accelerator):
            yield started
            started.finish_saving()
        started.barrier()
        distributed.end(accelerator, close_group=not outside)
    finally:
        started.close()
    if opened is not None:
        opened[0].close()


def _open_folder(
    place: Path,
    config: Any,
    run: RunConfig,
    free: Sequence[str],
    accelerator: Accelerator,
    data: Mapping[str, Recorded],
) -> tuple[Any, list[str]]:
    """The folder's lock, and notes about what may change and did."""
    held = folder.lock(place)
    same, notes = check_data(place, config, data, free, run.allow_changes)
    changed = folder.adopt(place, config, (*free, *same), run.allow_changes)
    keep_data(place, data)
    extra: dict[str, Any] = {"changed": changed} if changed else {}
    extra |= {"notes": notes} if notes else {}
    folder.record_start(place, world_size=accelerator.num_processes, device=str(accelerator.device.type), **extra)
    words = [f"the run goes on with {key}={now!r}, until now {before!r}" for key, (before, now) in changed.items()]
    return held, words + notes


def _seed(run: RunConfig, accelerator: Accelerator) -> None:
    """The same generators on every rank, so that initial weights agree; seed_step then differs by rank."""
    seed_step(run.seed, 0, 0)
    if accelerator.device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = not run.deterministic  # shapes don't change: the fastest algorithm is looked for
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def _warn_of_idle_cores(run: Run) -> None:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    used = torch.get_num_threads() * local
    if run.device.type == "cpu" and used < cores() and "ACCELERATE_MIXED_PRECISION" in os.environ:
        run.say(
            f"note: {used} of {cores()} cores are used (OMP_NUM_THREADS={torch.get_num_threads()}; accelerate launch "
            f"sets 1 unless told): set OMP_NUM_THREADS, or start with python -m launch.local"
        )


@contextlib.contextmanager
def _signals(run: Run) -> Iterator[None]:
    """SIGTERM, SIGUSR1 and the first Ctrl-C become a request to stop. The two former ones until the process ends: a
    launcher may send a second one."""

    def ask(number: int, frame: FrameType | None) -> None:
        run.request_stop()

    def interrupt() -> None:
        run.request_stop(INTERRUPTED)
        if run.is_main:
            os.write(2, ASKED)  # a signal may come while print is at work, which then refuses

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, ask)
    with interrupts.asking(interrupt):
        yield
    interrupts.leave()
    # SLURM signals the ranks and their launcher, which passes it on: the second one must not kill a rank that is
    # leaving. Python's own ending puts back the default of every handler but started.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def until_done(run: Run, attempt: Callable[[], int]) -> int:
    """What `attempt`, a whole training from the newest checkpoint, returns; after NotFiniteError it starts again.

    Each attempt starts with the same seeds, so that networks built in it have the same first weights on every rank.
    """
    while True:
        seed_step(run.config.seed, 0, 0)
        try:
            return attempt()
        except NotFiniteError as error:
            if run.strategy.startswith("zero") and run.world_size > 1:  # DeepSpeed's engine can't be built again
                raise
            run.turn_back(error)
