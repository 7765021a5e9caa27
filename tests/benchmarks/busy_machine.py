"""Steps per second of the default training beside another busy process: python -m tests.benchmarks.busy_machine

Ways to wait and to count threads take turns, each in a process of its own that trains the MNIST tokenizer, on the
machine as it is and beside one process that never rests. Steps per second are the median over the steps after the
first few; the table has the best turn of each way, as other work on the machine only ever slows one down, and the
quotients over `spinning` are medians of the turns. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from launch.command.cores import cores
from launch.run import metrics
from tests.imports import ROOT

WAYS = {
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin1000": {"GOMP_SPINCOUNT": "1000"},
    "spin10000": {"GOMP_SPINCOUNT": "10000"},
    "spin30000": {"GOMP_SPINCOUNT": "30000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""What the environment says. libgomp spins 300,000 turns, some 3 ms, where nothing is said: `spinning`."""

FIRST = 4
"""Steps that aren't counted."""

SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_")


def rate(way: dict[str, str], steps: int) -> float:
    """Steps per second of a training in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        line = [sys.executable, "-m", "stage1_tokenizer.train", "--config", "launch/recipes/mnist/tokenizer.yaml"]
        line += ["--run.folder", str(run), "--run.trackers", "[]", "--run.log_every", "1", "--steps", str(steps)]
        line += ["--data.held_out", "null", "--loss.adversarial.start", "0"]
        subprocess.run(line, cwd=ROOT, env={**clean, **way}, check=True, capture_output=True)
        times = [line["time"] for line in metrics.read(run / metrics.FILE) if line["kind"] == "train"]
    spans = [later - earlier for earlier, later in itertools.pairwise(times)]
    return 1 / statistics.median(spans[FIRST:])


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """So many processes that never rest."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ways", default=",".join(WAYS), help="names, separated by commas")
    parser.add_argument("--beside", default="0,1", help="numbers of busy processes, separated by commas")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(options.turns):
        for beside in options.beside.split(","):
            for way in options.ways.split(","):
                with busy(int(beside)):
                    steps = rate(WAYS[way], options.steps)
                found.setdefault(beside, {}).setdefault(way, []).append(steps)
                load = os.getloadavg()[0]
                print(f"turn {turn}, {beside} busy, {way}: {steps:.3f} steps/s (load {load:.1f})", flush=True)
    print(f"\n{cores()} cores | " + " | ".join(f"beside {beside} | against spinning" for beside in found))
    for way in options.ways.split(","):
        cells = []
        for rates in found.values():
            base = rates.get("spinning", rates[way])
            times = statistics.median(mine / other for mine, other in zip(rates[way], base, strict=True))
            cells.append(f"{max(rates[way]):.2f} | {times:.2f}")
        print(f"{way} | " + " | ".join(cells))
    print(json.dumps({"cores": cores(), "steps_per_second": found}))


if __name__ == "__main__":
    main()
