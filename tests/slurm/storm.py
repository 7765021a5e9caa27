"""Random interruptions of one training: `python -m tests.slurm.storm --interruptions 20 [--seed 0]`.

The same training runs once undisturbed and once through signals, kills, requeues and lost nodes, on a local SLURM of
two nodes. Its last line is JSON; it exits with 1 unless the weights are bit-identical, the samples of all steps the
same, and no checkpoint was ever unreadable.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from launch.checkpoints import folders
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import KINDS, Toy, disturb, until


def unreadable(toy: Toy) -> list[str]:
    """Damaged checkpoints that are there now. One deleted meanwhile by the run is no damage."""
    found = []
    for step in folders.steps(toy.folder):
        path = toy.folder / folders.FOLDER / f"{folders.PREFIX}{step:09d}"
        problem = folders.verify(path)
        if problem and path.exists():
            found.append(f"{path.name}: {problem}")
    return found


def storm(cluster: Cluster, folder: Path, interruptions: int, seed: int, steps: int) -> dict[str, Any]:
    """Run both trainings and compare them."""
    chance = random.Random(seed)
    arguments = ("--steps", str(steps), "--run.save_every", "10", "--run.log_every", "5", "--run.watchdog", "60")
    calm = Toy(cluster, folder / "calm").submit(*arguments)
    calm.wait(900)
    toy = Toy(cluster, folder / "storm").submit(*arguments, "--step_seconds", "0.05", VQLOOM_MOST_IDLE="5")
    began, counts, damaged = time.monotonic(), collections.Counter[str](), list[str]()
    while sum(counts.values()) < interruptions:
        seen = toy.steps_done()
        goal = seen + chance.randint(3, 25)
        until(600, lambda goal=goal: toy.over() or (toy.steps_done() >= goal and toy.processes()), f"step {goal}")
        if toy.over():
            break
        kind = KINDS[sum(counts.values()) % len(KINDS)] if sum(counts.values()) < len(KINDS) else chance.choice(KINDS)
        try:
            disturb(toy, kind, chance)
        except (IndexError, psutil.Error, RuntimeError):
            continue
        counts[kind] += 1
        print(f"{time.monotonic() - began:6.1f} s  {sum(counts.values()):2d}  {kind} at step {seen}", flush=True)
        until(300, lambda: toy.state != "RUNNING" or not toy.processes(), f"effect of {kind}")
        damaged += unreadable(toy)
    state = toy.wait(1200)
    return {
        "interruptions": sum(counts.values()),
        "kinds": dict(counts),
        "state": state,
        "identical_weights": calm.final()["sha256"] == toy.final()["sha256"],
        "identical_samples": calm.orders() == toy.orders(),
        "steps": len(toy.orders()),
        "unreadable_checkpoints": damaged,
        "restarts": int(cluster.job(toy.job).get("Restarts", 0)),
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.storm", description=__doc__)
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is stopped
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Cluster(Path(folder) / "cluster") as cluster,
    ):
        try:
            result = storm(cluster, Path(folder), options.interruptions, options.seed, options.steps)
            if result["interruptions"] < options.interruptions:
                raise RuntimeError(f"the training ended before all of them: {result}")
        except BaseException:
            for log in Path(folder).glob("*.log"):
                print(f"--- {log.name}\n{log.read_text()[-6000:]}", flush=True)
            raise
    print(json.dumps(result))
    good = result["identical_weights"] and result["identical_samples"] and not result["unreadable_checkpoints"]
    sys.exit(0 if good and result["interruptions"] >= options.interruptions else 1)


if __name__ == "__main__":
    main()
