"""What each choice of a tokenizer's recipe is worth in equal time, one change at a time, as a Markdown table.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ablation --recipe launch/recipes/cifar10_small/tokenizer.yaml \
        --data TRAIN.json --held_out HELD_OUT.json --steps 400 --out runs/ablation [CHANGE ...]

The recipe trains for so many steps, all with pictures of full size, and each change for as many of its own as take the
same time: its step and the recipe's are timed in turns in one process, so that the machine's moods meet both alike. All
that is counted in steps keeps its share. Each is stage1_tokenizer.train itself, in OUT/CHANGE; a finished one is not
trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

from data.pictures.transforms import to_float
from launch.command.cli import parse
from launch.run.starting import start_run
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.train import train
from tests.benchmarks.race.contenders import Ours
from tests.benchmarks.race.entrants import streamed
from tests.benchmarks.race.settings import scaled, words_of

TIMED = 12
"""Steps of each that are timed, after as many as a quarter of them."""
FIGURES = ("psnr", "lpips", "frechet_vgg16", "codebook_usage")
EARLY = "data.early_size"
"""Of a change that has it, half of the time is for pictures of this size."""
NO_FLIP = {"data.transform.flip": "false"}
DISCRIMINATOR = {"loss.adversarial.weight": 0.1}
CHANGES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "seed-1": {"run.seed": 1},
    "lpips-half": {"loss.perceptual.fraction": 0.5},
    "lpips-quarter": {"loss.perceptual.fraction": 0.25},
    "no-average": {"optimizer.ema_decay": 0},
    "constant-rate": {"optimizer.decay": "constant"},
    "codes-uniform": {"model.quantizer.start": "uniform"},
    "codes-kmeans": {"model.quantizer.start": "kmeans"},
    "no-revival": {"model.quantizer.revive_after": 0},
    "codes-by-gradient": {"model.quantizer.learning": "gradient"},
    "whole-squares": {"data.transform.random_crop": "false", "data.transform.min_scale": 1, **NO_FLIP},
    "half-batch": {"data.batch_size": 0.5},
    "accumulated": {"data.batch_size": 2, "data.micro_batch": 1},
    "progressive": {EARLY: 0.5},
    "discriminator": DISCRIMINATOR,
    "small-discriminator": {**DISCRIMINATOR, "loss.adversarial.channels": 0.5},
}  # fmt: skip
"""Settings by name. Of what TIMES_ITS_OWN lists, the value multiplies the recipe's (or that of the setting in LIKE)."""
LIKE = {"data.micro_batch": "data.batch_size", EARLY: "data.transform.size"}
TIMES_ITS_OWN = ("data.batch_size", *LIKE, "loss.adversarial.channels")


class Ablation:
    """One recipe, its data and its folder."""

    def __init__(self, args: argparse.Namespace):
        self.out, self.steps = Path(args.out), args.steps
        common = {
            "data.index": args.data, "data.held_out": args.held_out, "data.early_steps": 0,
            "evaluate_features": "vgg16", "run.trackers": "[]",
        }  # fmt: skip
        self.common = ["--config", args.recipe, *words_of(common)]
        self.plain = self.config({}, 0)

    def config(self, change: dict[str, Any], steps: int, folder: str = "trial", early: int = 0) -> TokenizerTrainConfig:
        """The recipe with a change; with `steps`, in so many steps, `early` of them with pictures of the early size."""
        options = {name: self._value(name, value) for name, value in change.items()}
        words = [*self.common, "--run.folder", str(self.out / folder), *words_of(options)]
        config = parse(TokenizerTrainConfig, words, prog="the recipe")
        if not steps:
            return config
        schedule = scaled(config, steps)
        if "loss.adversarial.weight" in change:
            schedule["loss.adversarial.start"] = steps // 2
        if EARLY in change:
            start = max(early, schedule["loss.adversarial.start"])
            schedule |= {"data.early_steps": early, "loss.adversarial.start": start}
        return parse(TokenizerTrainConfig, [*words, *words_of(schedule)], prog="the recipe")

    def _value(self, name: str, value: Any) -> Any:
        if name not in TIMES_ITS_OWN:
            return value
        block: Any = self.plain
        for key in LIKE.get(name, name).split("."):
            block = getattr(block, key)
        return round(value * block)

    def slower(self, name: str) -> float:
        """How many times the recipe's time a step takes with a change; a discriminator works in half of the steps."""
        count = TIMED + TIMED // 4
        configs = [self.config(one, 2 * count + 1, f"{name}-timed", 2 * count) for one in ({}, CHANGES[name])]
        times: list[list[float]] = [[], []]
        with start_run(configs[0], configs[0].run) as run, contextlib.ExitStack() as opened:
            streams = [opened.enter_context(streamed(config, 0)) for config in configs]
            both = [Ours(config, run) for config in configs]
            for number in range(2 * count):
                for ours, stream, taken in zip(both, streams, times, strict=True):
                    began = time.perf_counter()
                    ours.step(to_float(next(stream).pixels_BCHW), number, 0)
                    taken.append(time.perf_counter() - began)
        warm = count - TIMED
        plain, changed = ([*one[warm:count], *one[count + warm :]] for one in times)
        pairs = [b / a for a, b in zip(plain, changed, strict=True)]
        return statistics.mean([statistics.median(pairs[:TIMED]), statistics.median(pairs[TIMED:])])

    def trained(self, name: str) -> dict[str, Any]:
        """The last figures of the training with a change, its steps and the time of one."""
        kept = self.out / f"{name}.json"
        if kept.is_file():
            return json.loads(kept.read_text())
        change = CHANGES[name]
        ratio = self.slower(name) if change.keys() - {"run.seed"} else 1.0
        steps, early = round(self.steps / ratio), 0
        if EARLY in change:
            early = steps // 2
            steps = early + self.steps // 2
        train(self.config(change, steps, name, early))
        lines = [json.loads(line) for line in (self.out / name / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if line.get("kind") == "eval"][-1]
        found = {"steps": steps, "step_time": ratio, **{figure: last[f"eval/{figure}"] for figure in FIGURES}}
        kept.write_text(json.dumps(found))
        return found


HEAD = "| change | time of a step | steps | PSNR | LPIPS | Fréchet (vgg16) | codes in use |\n" + "|---" * 7 + "|"


def row(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    psnr, lpips, frechet, usage = (found[figure] for figure in FIGURES)
    measured = f"{psnr:.2f} | {lpips:.3f} | {frechet:.1f} | {usage:.0%}"
    return f"| {name} | {found['step_time']:.2f} | {found['steps']} | {measured} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("recipe", "data", "held_out", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--steps", type=int, default=400, help="of the recipe without a change")
    parser.add_argument("changes", nargs="*", help=f"among {', '.join(CHANGES)}; none: all of them")
    args = parser.parse_args()
    ablation = Ablation(args)
    rows = [HEAD]
    for name in args.changes or CHANGES:
        rows.append(row(name, ablation.trained(name)))
        print(rows[-1], flush=True)
    print("\n".join(rows))  # in one piece: trainings print between


if __name__ == "__main__":
    main()
