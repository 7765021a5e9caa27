"""One contender's process: it trains for as long as each line of its input says, and answers with a line.

    python -m tests.benchmarks.race.worker FOLDER NAME [--plan]

    {"seconds": …, "done": …}              once, when it can begin: how far it is, whether it has had all its time
    30.0  →  {"seconds": …, "done": …}     trained for so many more seconds

With --plan it only finds out how many steps of ours fit, as our schedules are in steps. Only what trains is timed:
reading the batch, and the step; measuring, saving and waiting for its turn are not.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from launch.checkpoints import store as checkpoint
from launch.files.atomic import write_file
from tests.benchmarks.race.settings import Race

PROBE = 6
"""Steps that are timed, before and after the discriminator's start, to plan the number of steps."""
PRIOR = "prior-"
"""Before a contender's name: its prior."""
PLAN = "plan.json"
"""Of an entrant's folder: its number of steps."""
MARGIN = 0.98
"""Share of its time that is planned, so that a schedule is done when the time is over."""


class Entrant(Protocol):
    """What a process trains."""

    state: Mapping[str, Any]

    def step(self, batch: Any, number: int, done: float) -> None:
        """Train on a batch, step `number` of its training, of whose time a share of `done` is over."""
        ...

    def batches(self, start: int) -> contextlib.AbstractContextManager[Iterator[Any]]:
        """The batches from step `start` on."""
        ...

    def measure(self, folder: Path, moment: int, step: int, last: bool) -> dict[str, float]:
        """Its figures at a moment, of which `last` is the last one; files that show it go into the folder."""
        ...


class Worker:
    """Trains one entrant; its folder keeps how far it is."""

    def __init__(self, race: Race, folder: Path, entrant: Entrant, steps: int | None, budget: float, moments: int):
        self.race, self.folder, self.entrant, self.steps = race, folder, entrant, steps
        self.budget, self.moments = budget, moments
        self.step, self.seconds, self.curve = 0, 0.0, []
        kept = folder / "curve.json"
        step = checkpoint.load_latest(folder, entrant.state)
        if step is not None and kept.is_file():
            found = json.loads(kept.read_text())
            self.step, self.seconds, self.curve = step, found["seconds"], found["curve"]

    @property
    def done(self) -> bool:
        return self.seconds >= self.budget or self.step == self.steps

    def follow(self, orders: Iterator[str], answer: Callable[[dict], None]) -> None:
        """Obey until the input ends."""
        with self.entrant.batches(self.step) as batches:
            answer({"seconds": self.seconds, "done": self.done})
            for line in orders:
                self.train(batches, min(self.seconds + float(line), self.budget))
                self.save()
                answer({"seconds": self.seconds, "done": self.done, "figures": self.curve[-1:]})

    def train(self, batches: Iterator[Any], until: float) -> None:
        while self.seconds < until and self.step != self.steps:
            began = time.perf_counter()
            self.entrant.step(next(batches), self.step, self.seconds / self.budget)
            if self.race.device == "cuda":
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - began
            self.step += 1
            moment = self.budget * (len(self.curve) + 1) / self.moments
            if self.seconds >= moment or self.step == self.steps or self.seconds >= self.budget:
                self.measure()

    def measure(self) -> None:
        figures = self.entrant.measure(self.folder, len(self.curve) + 1, self.step, self.done)
        self.curve.append({"seconds": round(self.seconds, 2), "steps": self.step, **figures})

    def save(self) -> None:
        """A checkpoint and, with it, the curve so far."""
        checkpoint.save(self.folder, self.step, self.entrant.state, keep=1)
        kept = {"seconds": self.seconds, "done": self.done, "curve": self.curve}
        write_file(self.folder / "curve.json", json.dumps(kept))


def plan(folder: Path, budget: float, start: float, entrant: Entrant) -> None:
    """Write down how many steps fit into the budget, from a trial of `entrant`, which changes at 2·PROBE.

    `start` is the share of the steps before the change: a discriminator starts, or pictures get their full size.
    """
    times = []
    with entrant.batches(0) as batches:
        for number in range(4 * PROBE):
            began = time.perf_counter()
            entrant.step(next(batches), number, 0.0)
            times.append(time.perf_counter() - began)
    before, after = (sorted(times[PROBE * part : PROBE * (part + 1)])[PROBE // 2] for part in (1, 3))
    steps = max(4, int(MARGIN * budget / (start * before + (1 - start) * after)))
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / PLAN, json.dumps({"steps": steps, "step_seconds": [before, after]}))


def planned_steps(folder: Path) -> int | None:
    """The steps that `plan` wrote down; None for an entrant without a plan, which trains until its time is over."""
    return json.loads((folder / PLAN).read_text())["steps"] if (folder / PLAN).is_file() else None


def main() -> None:
    """Plan or train the contender that the command line names."""
    race, name = Race.load(Path(sys.argv[1])), sys.argv[2]
    if name.startswith(PRIOR):
        from tests.benchmarks.race.priors import entered_prior as entered
        from tests.benchmarks.race.priors import rehearse_prior as rehearse
    else:
        from tests.benchmarks.race.entrants import entered, rehearse
    contender = name.removeprefix(PRIOR)
    answers, sys.stdout = sys.stdout, sys.stderr  # what the contenders print goes to their log
    torch.set_num_threads(race.threads)
    if sys.argv[3:] == ["--plan"]:
        rehearse(race)
        return

    def answer(words: dict) -> None:
        print(json.dumps(words), file=answers, flush=True)

    with entered(race, contender) as worker:
        worker.follow(iter(sys.stdin.readline, ""), answer)


if __name__ == "__main__":
    main()
