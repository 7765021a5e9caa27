"""Every strategy against one process, and every change of strategy at a checkpoint: the whole matrix.

    python -m tests.benchmarks.strategies [--stage tokenizer] [--precision bf16] [--activation_checkpointing true] \
        [--compile true] [--kind masked] [--onward [RANKS…]] [--out FILE]

Each of ddp, fsdp2, zero1, zero2 and zero3 trains a small prior (or a tokenizer, with a discriminator, adaptive weight
and a codebook by moving averages) for 50 steps on two gloo ranks; then each goes on from step 25 of each (25 pairs), on
as many ranks as --onward says. Printed is the largest difference of any step's losses from one process's; the logged
losses have six decimals.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.run.provenance import commit, hardware, now
from launch.strategies.base import STRATEGIES
from stage1_tokenizer.train import train as train_tokenizer
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.encode import encode
from stage2_prior.train import train
from tests.distributed import run_distributed_test
from tests.stage1_tokenizer.training import test_strategies as stage1
from tests.stage2_prior.conftest import Coded
from tests.stage2_prior.tiny import write_pictures, write_tokenizer
from tests.stage2_prior.training.test_strategies import settings, train_until

HALF = 25
"""The step at which the strategy changes."""


def configured(coded: Coded | None, folder: Path, strategy: str | None, options: argparse.Namespace) -> Any:
    """The suite's settings with what the command line changes."""
    if coded is None:
        changes = {"run__precision": options.precision, "activation_checkpointing": options.activation_checkpointing}
        return stage1.configured(folder, strategy, **changes, compile=options.compile)
    config = settings(coded, folder, strategy, run={"precision": options.precision})
    model = PriorModelConfig(kind=options.kind, layers=2, width=16, heads=2, class_dropout=0.3)
    recompute = options.activation_checkpointing == "true"
    return replace(
        config, model=model, activation_checkpointing=recompute, compile=options.compile == "true", evaluate_every=25
    )


def train_one(config: Any) -> int:
    """Train a prior or a tokenizer."""
    return train(config) if isinstance(config, PriorTrainConfig) else train_tokenizer(config)


def stopped(config: Any) -> int:
    """The same, but stop at HALF."""
    until = train_until if isinstance(config, PriorTrainConfig) else stage1.train_until
    return until(config, HALF)


def whole(coded: Coded | None, place: Path, options: argparse.Namespace) -> None:
    """On each rank: every strategy from the start, with a stop at half of the steps whose checkpoint is kept."""
    for strategy in options.strategies:
        config = configured(coded, place / strategy, strategy, options)
        stopped(config)
        copy_once(place / strategy, place / f"{strategy}-half")
        train_one(config)


def copy_once(source: Path, target: Path) -> None:
    """Copy a folder, on rank 0."""
    import torch

    if torch.distributed.get_rank() == 0:
        shutil.copytree(source, target)
    torch.distributed.barrier()


def onward(coded: Coded | None, place: Path, options: argparse.Namespace, ranks: int) -> None:
    """On each rank: from each strategy's half to the end with each other."""
    for begun in options.strategies:
        for strategy in options.strategies:
            target = place / f"{begun}-{strategy}-{ranks}"
            copy_once(place / f"{begun}-half", target)
            train_one(configured(coded, target, strategy, options))


def make_codes(place: Path) -> Coded:
    """Pictures, an untrained tokenizer and its codes."""
    pictures = write_pictures(place / "pictures", shards=5, each=18)
    held_out = write_pictures(place / "held_out", shards=2, each=9, seed=1)
    tokenizer = write_tokenizer(place / "tokenizer")
    for name, index in (("codes", pictures), ("held_out_codes", held_out)):
        encode(EncodeConfig(tokenizer=tokenizer, data=index, out=str(place / name), batch_size=7))
    codes = (str(place / name / "index.json") for name in ("codes", "held_out_codes"))
    return Coded(pictures, held_out, tokenizer, *codes)


def all_losses(folder: Path) -> list[float]:
    """Every loss that was logged, of all steps."""
    lines = sorted(stage1.lines(folder, "train"), key=lambda line: line["step"])
    return [line[name] for line in lines for name in sorted(line) if name.startswith("loss/")]


def largest_difference(folder: Path, expected: list[float]) -> float:
    """Between a run's losses and one process's, over all steps."""
    found = all_losses(folder)
    assert len(found) == len(expected), f"{folder.name} has {len(found)} losses"
    return max(abs(a - b) for a, b in zip(expected, found, strict=True))


def main() -> None:
    """Run the matrix and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="prior", choices=["prior", "tokenizer"])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--activation_checkpointing", default="false")
    parser.add_argument("--compile", default="false")
    parser.add_argument("--kind", default="autoregressive")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--onward", nargs="*", type=int, default=[2], help="numbers of ranks that go on (none: skip)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        coded = make_codes(place) if options.stage == "prior" else None
        train_one(configured(coded, place / "one", None, options))
        expected = all_losses(place / "one")
        run_distributed_test(whole, 2, (coded, place, options), timeout=900)
        found = {name: largest_difference(place / name, expected) for name in options.strategies}
        for ranks in options.onward:
            run_distributed_test(onward, ranks, (coded, place, options, ranks), timeout=1800)
            for begun in options.strategies:
                for strategy in options.strategies:
                    name = f"{begun}-{strategy}-{ranks}"
                    found[f"{begun} on 2, then {strategy} on {ranks}"] = largest_difference(place / name, expected)
    for name, value in found.items():
        print(f"{name:<32} {value:.2e}")
    report = {
        "largest_difference": found, "worst": max(found.values()), "first_loss": expected[0], "last_loss": expected[-1],
        "options": {key: str(value) for key, value in vars(options).items()},
        "commit": commit(), "hardware": hardware(), "date": now(),
    }  # fmt: skip
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
