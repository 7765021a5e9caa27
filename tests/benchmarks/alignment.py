"""What alignment with a frozen network brings on MNIST: paired trainings with and without it, the same seeds.

    python -m tests.benchmarks.alignment --out FOLDER [--seeds 3] [--steps 300] [--only none cosine …]

No published weights are at hand where this is run, so the frozen network is trained on the spot: a small DINOv2, with
the classes of the training digits, saved as a folder of transformers. Each tokenizer is that of launch/recipes/mnist,
at 16×16 pixels, with L1 alone, and differs in loss.semantic alone; its codes then get a small prior of fixed size.
Finished parts in the folder are reused. Prints a table: mean and range over seeds, and in how many seeds each form is
better than none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from data.pictures.transforms import to_float
from launch.command.cli import parse
from launch.run.metrics import read
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.picture_sets import every_picture
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.encode import encode
from stage2_prior.train import train as train_prior
from tests.benchmarks.robustness import of_samples, real_set, samples_of

RECIPE = "launch/recipes/mnist/tokenizer.yaml"
TRAIN, HELD_OUT = "data/samples/mnist/train.json", "data/samples/mnist/held_out.json"
SIZE, PATCH, WIDTH = 16, 2, 48
SMALL: dict[str, Any] = {
    "data.transform.size": SIZE,
    "data.transform.fit": "stretch",
    "model.channel_multipliers": "[1, 2]",
    "model.attention": "false",
    "loss.perceptual.weight": 0,
    "loss.adversarial.weight": 0,
}
"""What differs from the recipe: half the side, the same 8×8 codes, and L1 alone."""

FORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "cosine": {"weight": 0.5, "at": "codes"},
    "margin": {"weight": 0.1, "at": "latents", "form": "margin", "adaptive": "true", "projector": "linear"},
    "contrastive": {"weight": 0.1, "at": "codes", "form": "contrastive"},
    "decoder": {"weight": 0.5, "at": "decoder"},
    "cosine, a tenth": {"weight": 0.05, "at": "codes"},
    "contrastive, a tenth": {"weight": 0.01, "at": "codes", "form": "contrastive"},
    "decoder, a tenth": {"weight": 0.05, "at": "decoder"},
}
"""loss.semantic of each arm, with published weights and, as there is no LPIPS beside them here, a tenth of these."""

DISTANCE = "samples_frechet_vgg16"
FIGURES = ("linear_probe", "semantic_cosine", "psnr", "entropy_bits", "bits_per_code", DISTANCE)
"""What the table has; bits_per_code are the prior's, of held-out codes, below entropy_bits, what codes need alone."""

LARGER_IS_BETTER = {
    "linear_probe": True,
    "semantic_cosine": True,
    "psnr": True,
    "bits_per_code": False,
    DISTANCE: False,
}


def digits(index: str) -> tuple[Tensor, Tensor]:
    """All pictures of an index, uint8 (N, 1, 16, 16), and their classes."""
    config = parse(TokenizerTrainConfig, ["--config", RECIPE, *options(SMALL)], prog="alignment")
    batches = list(every_picture(index, config.data.transform, batch_size=256))
    return torch.cat([batch.pixels_BCHW for batch in batches]), torch.cat([batch.label_B for batch in batches])


def train_network(folder: Path, epochs: int) -> dict[str, float]:
    """Train a small DINOv2 on the digits' classes, from the mean of its patches, and save it; its held-out accuracy."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2}
    network = Dinov2Model(Dinov2Config(**shape, image_size=SIZE, patch_size=PATCH)).train()
    head = nn.Linear(WIDTH, 10)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-3, weight_decay=0.05)
    pixels, labels = digits(TRAIN)
    steps = epochs * (len(pixels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    chosen = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (64,), generator=chosen)
        loss = F.cross_entropy(head(features(network, pixels[rows]).mean(1)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    pixels, labels = digits(HELD_OUT)
    with torch.no_grad():
        right = [head(features(network, part).mean(1)).argmax(1) for part in pixels.split(250)]
    network.save_pretrained(folder)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(half))
    return {"accuracy": float((torch.cat(right) == labels).double().mean()), "steps": steps}


def features(network: nn.Module, pixels_BCHW: Tensor) -> Tensor:
    """Patches of a network for digits."""
    x_BCHW = to_float(pixels_BCHW).expand(-1, 3, -1, -1)
    return network(pixel_values=x_BCHW).last_hidden_state[:, 1:]


def options(values: dict[str, Any]) -> list[str]:
    """Settings as words of a command line."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def one(place: Path, network: Path, form: str, seed: int, steps: int) -> dict[str, float]:
    """Train a tokenizer and a prior of its codes; their figures."""
    run, shared = place / "tokenizer-run", {"run.trackers": "[]", "run.seed": seed, "run.log_every": 50}
    semantic = {f"loss.semantic.{name}": value for name, value in FORMS[form].items()}
    if semantic:
        semantic |= {"loss.semantic.network": network, "loss.semantic.size": SIZE, "loss.semantic.hidden": 128}
    settings = {
        **shared,
        "run.folder": run,
        "steps": steps,
        "evaluate_every": 0,
        "run.save_every": steps,
        **SMALL,
        **semantic,
    }
    train(parse(TokenizerTrainConfig, ["--config", RECIPE, *options(settings)], prog="alignment"))
    measured = {"tokenizer": run, "data": HELD_OUT, "out": place / "tokenizer.json", "probe": TRAIN}
    measured |= {"teacher": network, "features": "none", "lpips": "false", "overwrite": "true"}
    found = evaluate_tokenizer(parse(EvaluateConfig, options(measured), prog="alignment"))
    open_run(run).tokenizer.save_pretrained(place / "tokenizer")
    for part, index in (("train", TRAIN), ("held_out", HELD_OUT)):
        encoded = {"tokenizer": place / "tokenizer", "data": index, "out": place / "codes" / part, "overwrite": "true"}
        encode(parse(EncodeConfig, options(encoded), prog="alignment"))
    prior = {
        **shared,
        "run.folder": place / "prior-run",
        "tokenizer": place / "tokenizer",
        "data.index": place / "codes/train/index.json",
        "data.held_out": place / "codes/held_out/index.json",
        "data.batch_size": 64,
        "model.kind": "autoregressive",
        "model.layers": 2,
        "model.width": 64,
        "model.heads": 4,
        "model.class_dropout": 0,
        "optimizer.learning_rate": 3e-3,
        "optimizer.warmup": steps // 10,
        "optimizer.ema_decay": 0.98,
        "steps": steps,
        "evaluate_every": steps,
        "run.save_every": steps,
    }
    train_prior(parse(PriorTrainConfig, options(prior), prog="alignment"))
    bits = [
        line["eval/bits_per_code"] for line in read(place / "prior-run/metrics.jsonl") if "eval/bits_per_code" in line
    ]
    return {**{name: float(found[name]) for name in FIGURES if name in found}, "bits_per_code": float(bits[-1])}


def distance(place: Path) -> float:
    """The Fréchet distance of the prior's decoded samples from the held-out digits."""
    idx_Bhw = samples_of(str(place / "prior-run"), place / "samples.pt")
    return of_samples(str(place / "tokenizer"), idx_Bhw, *held_out())["frechet_vgg16"]


@cache
def held_out() -> tuple[Any, Any]:
    """The feature network and the held-out digits' statistics."""
    return real_set()


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: mean (smallest to largest) of each figure, and in how many seeds it is better than without."""
    lines = ["| loss.semantic | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for form, by_seed in results.items():
        cells = []
        for name in FIGURES:
            values = [figures[name] for figures in by_seed.values()]
            cell = f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"
            both = [seed for seed in by_seed if seed in results.get("none", {})]
            if form != "none" and both and name in LARGER_IS_BETTER:
                apart = [by_seed[seed][name] - results["none"][seed][name] for seed in both]
                better = sum((difference > 0) == LARGER_IS_BETTER[name] for difference in apart)
                cell += f", better in {better} of {len(both)}"
            cells.append(cell)
        lines.append(f"| {form} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(FORMS), choices=list(FORMS))
    given = parser.parse_args()
    network, known = given.out / "network", given.out / "network.json"
    given.out.mkdir(parents=True, exist_ok=True)
    if not known.exists():
        known.write_text(json.dumps(train_network(network, given.epochs)))
    print(f"frozen network: {known.read_text()}", flush=True)
    results: dict[str, dict[str, dict[str, float]]] = {form: {} for form in given.only}
    for seed in range(given.seeds):
        for form in given.only:
            place = given.out / form / str(seed)
            done = place / "figures.json"
            if not done.exists():
                place.mkdir(parents=True, exist_ok=True)
                began = time.process_time()
                figures = one(place, network, form, seed, given.steps) | {DISTANCE: distance(place)}
                done.write_text(json.dumps({**figures, "seconds": time.process_time() - began}))
            results[form][str(seed)] = json.loads(done.read_text())
            print(form, seed, done.read_text(), flush=True)
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
