"""What a training step costs a GPU, on paper.

python -m tests.benchmarks.on_paper [--recipe NAME…] [--stage STAGE] [--pictures N] [--top N]

For each recipe and stage: operations, bytes moved, kernels launched, peak memory, and the time that an H100 SXM would
need at best (tests.gpu.costs has the rules and the card's figures). This is arithmetic on fake CUDA tensors, not a
measurement: no GPU is used. Steps are eager, of one rank; `--pictures` are a GPU's, by default the recipe's batch over
the processes that its header starts. `--top N` also lists the most expensive operations. The last line is JSON.
"""

from __future__ import annotations

import tests.gpu.fake_cuda as fake_cuda  # isort: skip  (before torch)

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.quantizers.nearest import nearest_code
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.gpu.costs import Costs
from tests.gpu.stage1 import Stage1
from tests.gpu.stand_ins import stand_ins
from tests.gpu.watch import CUDA, ROOT

RECIPES = ROOT / "launch" / "recipes"
CLASSES = dict.fromkeys(("imagenet256", "imagenet256_taming", "imagenet256_rar", "imagenet256_alitok"), 1000) | {
    "cifar10": 10,
    "mnist": 10,
}
"""Classes of a recipe's data; elsewhere 40, which hardly matters."""
NEAREST = (4096, 16384, 8)
"""Latents, codes and dimension of imagenet256's search at 16 pictures a GPU."""
EAGER = ["--compile", "false", "--run.folder"]


def on_one_gpu(recipe: Path) -> int:
    """A GPU's share of the recipe's batch."""
    text = recipe.read_text()
    batch, ranks = re.search(r"batch_size: (\d+)", text), re.search(r"--num_processes (\d+)", text)
    assert batch is not None, f"{recipe} names no batch_size"
    return int(batch[1]) // (int(ranks[1]) if ranks else 1)


def tokenizer(name: str, pictures: int, folder: str) -> Stage1:
    """A training of a recipe's tokenizer, its discriminators at work."""
    options = ["--config", str(RECIPES / name / "tokenizer.yaml"), *EAGER, folder, "--loss.adversarial.start", "0"]
    # frozen networks' shares aren't the recipe's to choose
    options += ["--loss.semantic.weight", "0", "--loss.logits.weight", "0"]
    return Stage1(options, pictures)


def prior(name: str, pictures: int, folder: str) -> Any:
    """A training of a recipe's prior, on codes as its tokenizer makes them."""
    from stage2_prior.codes.source import CodeSource
    from tests.gpu.stage2 import Stage2

    config = tokenizer_config(name)
    with torch.device("meta"):
        made = Tokenizer(config.model, config.data.transform)
    quantizer = config.model.quantizer
    scales = tuple(quantizer.scales) if quantizer.kind == "multiscale" else ()
    grid = made.grid(config.data.transform.size)
    source = CodeSource("f" * 64, made.codebook_size, grid, {}, made.codebooks, scales)
    options = ["--config", str(RECIPES / name / "prior.yaml"), "--tokenizer", "t", "--data.index", "i", *EAGER, folder]
    classes = [str(number) for number in range(CLASSES.get(name, 40))]
    return Stage2(options, pictures, source, classes, quantizer.code_dim)


def tokenizer_config(name: str) -> TokenizerTrainConfig:
    """The settings of a recipe's tokenizer."""
    return parse(TokenizerTrainConfig, ["--config", str(RECIPES / name / "tokenizer.yaml")], prog="")


STAGES = {"tokenizer": tokenizer, "prior": prior}


def step(stage: str, name: str, pictures: int) -> Costs:
    """The cost of a recipe's second step, after that which makes the optimizer's state."""
    with tempfile.TemporaryDirectory() as folder, fake_cuda.pretend(), stand_ins(), Costs() as costs:
        training = STAGES[stage](name, pictures, folder)
        training.step()
        costs.clear()
        training.step()
        return costs


def nearest() -> Costs:
    """The cost of a search for the nearest codes."""
    rows, codes, dim = NEAREST
    with fake_cuda.pretend(), Costs() as costs:
        install(torch.nn.Identity(), CUDA)
        z_ND, code_KD = torch.empty(rows, dim, device=CUDA), torch.empty(codes, dim, device=CUDA)
        costs.clear()
        nearest_code(z_ND, code_KD)
        return costs


def show(title: str, costs: Costs, top: int) -> None:
    """Print a line, and the most expensive operations."""
    got = costs.figures()
    print(
        f"{title:42}{got['tflop']:9.2f} TFLOP {got['gigabytes']:8.1f} GB {got['launches']:6} launches "
        f"{got['peak_gib']:6.2f} GiB {got['seconds_h100'] * 1e3:8.2f} ms",
        flush=True,
    )
    for what, amounts in costs.by.items() if top else ():
        shown = ", ".join(f"{name} {amount:.3g}" for name, amount in amounts.most_common(top))
        print(f"    {what}: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="*", help="folders of launch/recipes; by default all; nearest_code: a search")
    parser.add_argument("--stage", choices=STAGES, help="one stage only")
    parser.add_argument("--pictures", type=int, help="a GPU's samples in a step")
    parser.add_argument("--top", type=int, default=0, help="how many of the most expensive operations to list")
    args = parser.parse_args()
    print(
        "A step on one H100 SXM on paper: arithmetic over fake tensors, not a measurement; times are the least possible"
    )
    found: dict[str, dict[str, Any]] = {}
    for name in args.recipe or [*sorted(path.name for path in RECIPES.iterdir()), "nearest_code"]:
        if name == "nearest_code":
            costs = nearest()
            show(f"nearest_code {'×'.join(map(str, NEAREST))}", costs, args.top)
            found[name] = {"search": costs.figures()}
        for stage in STAGES if args.stage is None else [args.stage]:
            recipe = RECIPES / name / f"{stage}.yaml"
            if recipe.exists():
                pictures = args.pictures or on_one_gpu(recipe)
                costs = step(stage, name, pictures)
                show(f"{name} {stage}, {pictures} a GPU", costs, args.top)
                found.setdefault(name, {})[stage] = costs.figures() | {"pictures": pictures}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
