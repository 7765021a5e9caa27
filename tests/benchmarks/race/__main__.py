"""Whose tokenizer is better, and whose samples, in the same time: ours, taming-transformers' or LlamaGen's.

    python -m tests.benchmarks.race --peer DIR --data TRAIN.json --held_out HELD_OUT.json --minutes 30 --out DIR

`DIR` holds checkouts taming-transformers and LlamaGen. Each contender trains in its own process for so many minutes, on
the same cores, shards, batches and networks, in turns of a few minutes, so that a machine's moods meet all alike; each
is measured at the same moments of its own time, on the same held-out pictures, by the same evaluator. Measuring is not
timed. Then LlamaGen's GPT and our prior train on each one's own codes (not with --tokenizer-only). The same command
continues a race that was interrupted.

OUT gets curves.png, table.md, pictures.png, samples.png (with priors), settings.md, and result.json: `time_to_final`
(our time to a peer's final held-out figure as a share of its time to it; null: not reached), `final`, `prior`. The last
line is that object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import torch

from tests.benchmarks.race.report import report
from tests.benchmarks.race.settings import LLAMAGEN, OURS, TAMING, Race
from tests.benchmarks.race.worker import PLAN, PRIOR

RECIPE = Path("launch/recipes/cifar10_small")


class Process:
    """A contender's process."""

    def __init__(self, race: Race, name: str):
        self.name, self.log = name, (race.folder / f"{name}.log").open("a")
        command = [sys.executable, "-m", "tests.benchmarks.race.worker", race.out, name]
        environment = os.environ | {"OMP_NUM_THREADS": str(race.threads)}
        planned = (race.folder / name / PLAN).is_file() or not name.endswith(OURS)
        if not planned and subprocess.run([*command, "--plan"], env=environment, stderr=self.log).returncode:
            self.ended()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        self.done = self.answer()["done"]

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.ended()
        return json.loads(line)

    def ended(self) -> NoReturn:
        self.log.flush()
        told = Path(self.log.name).read_text().strip().splitlines()
        sys.exit(f"{self.name} ended: {told[-1] if told else 'without a word'} ({self.log.name})")

    def turn(self, seconds: float) -> None:
        print(seconds, file=self.process.stdin, flush=True)
        found = self.answer()
        self.done = found["done"]
        figures = {name: round(value, 3) for one in found["figures"] for name, value in one.items()}
        print(f"{self.name}: {found['seconds']:.0f} s, {figures}", flush=True)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def over(folder: Path) -> bool:
    """Whether a contender has had all its time."""
    kept = folder / "curve.json"
    return kept.is_file() and json.loads(kept.read_text()).get("done", False)


def run(race: Race, names: list[str]) -> None:
    """Let these train in turns until all have had their time."""
    processes = [Process(race, name) for name in names if not over(race.folder / name)]
    while waiting := [process for process in processes if not process.done]:
        for process in waiting:
            process.turn(race.slice_seconds)
    for process in processes:
        process.close()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.race", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", required=True, help="folder with checkouts taming-transformers and LlamaGen")
    parser.add_argument("--data", required=True, help="index of the training pictures")
    parser.add_argument("--held_out", required=True, help="index of the pictures on which all are measured")
    parser.add_argument("--out", required=True, help="folder for the race")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="folder with tokenizer.yaml and prior.yaml")
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each tokenizer")
    parser.add_argument("--prior-minutes", type=float, help="of training, for each prior; by default a third of that")
    parser.add_argument("--tokenizer-only", action="store_true", help="leave out the priors")
    parser.add_argument("--contenders", nargs="+", default=[OURS, TAMING, LLAMAGEN], help="which ones")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("slice_seconds", "moments", "pictures", "samples", "threads"):
        default = getattr(Race, name)
        parser.add_argument(f"--{name}", type=type(default), default=default)
    for name in ("rate", "start", "prior_rate"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Race, name), help="a setting of the peers")
    parser.add_argument("options", nargs="*", help="after --: options of stage1_tokenizer.train for all")
    return parser.parse_args()


def main() -> None:
    """Race, and print the result."""
    args = vars(options())
    recipe, names = args.pop("recipe"), args.pop("contenders")
    only, prior_minutes = args.pop("tokenizer_only"), args.pop("prior_minutes")
    prior_minutes = args["minutes"] / 3 if prior_minutes is None else prior_minutes
    prior = "" if only else str(recipe / "prior.yaml")
    race = Race(recipe=str(recipe / "tokenizer.yaml"), prior=prior, prior_minutes=prior_minutes, **args)
    kept = race.folder / "race.json"
    if kept.is_file() and Race.load(race.folder).of_tokenizers != race.of_tokenizers:
        sys.exit(f"{kept} is a race with other settings: choose another --out, or give those")
    race.save()
    run(race, names)
    if race.prior:
        run(race, [PRIOR + name for name in names if name != TAMING])
    print(json.dumps(report(race, names)))


if __name__ == "__main__":
    main()
