"""One process of two threads beside two processes of one, on the same two cores.

    python -m tests.benchmarks.scaling --data TRAIN.json [--recipe launch/recipes/cifar10_small/tokenizer.yaml]

strong: the same global batch. weak: a batch for each process, beside one process of one thread with one batch. Each is
the training command itself; its speed is the median of those in metrics.jsonl, after the first steps. They take turns.
The last line is JSON: `two_of_one`, the speed of two processes over that of one (strong), and `weak`, the speed of two
over twice that of one, each the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig

EVERY = 5
"""Steps between two measurements of the speed."""


def speed(args: argparse.Namespace, folder: Path, processes: int, threads: int, batch: int) -> float:
    """Pictures per second of a short training."""
    words = ["--processes", str(processes), "stage1_tokenizer.train", "--config", args.recipe]
    options = {
        "run.folder": str(folder), "run.log_every": str(EVERY), "run.trackers": "[]", "data.index": args.data,
        "data.held_out": "null", "data.batch_size": str(batch), "data.threads": "1", "steps": str(args.steps),
        "loss.adversarial.start": "0", "data.early_steps": "0",
    }  # fmt: skip
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(
        [sys.executable, "-m", "launch.local", *words], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [line["rate/pictures_per_second"] for line in lines if "rate/pictures_per_second" in line]
    return statistics.median(rates[len(rates) // 3 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="index of the training pictures")
    parser.add_argument("--recipe", default="launch/recipes/cifar10_small/tokenizer.yaml")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    batch = parse(TokenizerTrainConfig, ["--config", args.recipe], prog="the recipe").data.batch_size
    ways = {"1x2": (1, 2, batch), "2x1": (2, 1, batch), "1x1": (1, 1, batch), "2x1 weak": (2, 1, 2 * batch)}
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(args.rounds):
            for way, (processes, threads, size) in ways.items():
                found[way].append(speed(args, Path(name, f"{way}-{turn}"), processes, threads, size))
            print({way: round(values[-1], 1) for way, values in found.items()}, flush=True)

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(found[over], found[under], strict=True))

    speeds = {way: round(max(values), 1) for way, values in found.items()}
    print(json.dumps({"two_of_one": round(ratio("2x1", "1x2"), 3), "weak": round(ratio("2x1 weak", "1x1") / 2, 3),
                      "pictures_per_second": speeds}))  # fmt: skip


if __name__ == "__main__":
    main()
