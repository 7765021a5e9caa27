"""Perturbed codes and decoder post-training on MNIST: paired runs, each with three seeds, as a Markdown table.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.robustness runs/robustness        # rerun it to go on

For each seed: a tokenizer without and one with perturbed codes (`model.quantizer.perturb`), a small prior over the
first one's codes, and its decoder tuned on redrawn codes (`stage2_prior.redraw`) and, for comparison, as long on the
true codes. Samples are decoded from the same drawn codes by all three decoders. Digits are reduced to 16×16 pixels, 8×8
codes out of 256. One core; each run takes under three minutes on a quiet one. RUNS/table.md is the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import yaml

from data.pictures.transforms import to_uint8
from data.reading.stream import every_sample
from launch.command.cli import parse
from stage1_tokenizer.config.measuring import EvaluateConfig
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.measuring.distances import SetSums, figures
from stage1_tokenizer.measuring.evaluation import evaluate_tokenizer
from stage1_tokenizer.measuring.features import FeatureNetwork, load_network
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train as train_tokenizer
from stage1_tokenizer.training.fine_tuning import with_model
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.redrawing import RedrawConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.encode import encode
from stage2_prior.priors.build import load_prior
from stage2_prior.redraw import redraw
from stage2_prior.sampling.pictures import Picture, sample_codes
from stage2_prior.train import train as train_prior

TRAIN, HELD_OUT = "data/samples/mnist/train.json", "data/samples/mnist/held_out.json"
SEEDS, PER_CLASS, SHARE, NEAREST = (0, 1, 2), 100, 0.3, 16
STEPS, TUNING_STEPS, PRIOR_STEPS = 300, 150, 300
TOKENIZER = json.dumps(
    yaml.safe_load(f"""
run: {{trackers: [], log_every: 50, save_every: 100}}
data:
  index: {TRAIN}
  held_out: null
  batch_size: 32
  threads: 1
  transform: {{size: 16, channels: 1, fit: stretch, background: 0}}
model:
  in_channels: 1
  channels: 16
  channel_multipliers: [1, 2]
  res_blocks: 1
  z_channels: 32
  quantizer: {{codebook_size: 256, code_dim: 8, l2_normalise: true, start: batch, revive_after: 25}}
loss:
  perceptual: {{weight: 1.0, fraction: 0.25}}
  adversarial: {{weight: 0.1, start: 150, ramp: 50, channels: 16, layers: 2, norm: group}}
optimizer: {{learning_rate: 1.0e-3, discriminator_learning_rate: 3.0e-4, warmup: 30, decay: cosine, ema_decay: 0.98}}
steps: {STEPS}
""")
)
PERTURB = ["--model.quantizer.perturb.samples", "0.1", "--model.quantizer.perturb.nearest", str(NEAREST)]
TUNING = ["--freeze", "[encoder, quantizer]", "--steps", str(TUNING_STEPS), "--loss.adversarial.start", "0"]
TUNING += ["--loss.adversarial.ramp", "20", "--optimizer.learning_rate", "3.0e-4"]
PRIOR = ["--data.batch_size", "32", "--data.threads", "1", "--model.layers", "3", "--model.width", "96"]
PRIOR += ["--model.heads", "3", "--optimizer.learning_rate", "2e-3", "--optimizer.warmup", "30"]
PRIOR += ["--steps", str(PRIOR_STEPS), "--run.trackers", "[]", "--run.log_every", "50", "--run.save_every", "100"]


def tokenizer_run(folder: Path, seed: int, *options: str) -> str:
    """Train, or go on training, a tokenizer; the folder of its averaged weights."""
    place = folder / "tokenizer"
    if not place.exists():
        words = ["--config", TOKENIZER, "--run.folder", str(folder), "--run.seed", str(seed), *options]
        train_tokenizer(parse(TokenizerTrainConfig, with_model(words), prog="robustness"))
        open_run(folder).tokenizer.save_pretrained(place)
    return str(place)


def reconstructions(tokenizer: str, out: Path) -> dict[str, Any]:
    """The evaluator's figures on held-out digits."""
    if not out.exists():
        perturbed = {"perturb_share": SHARE, "perturb_nearest": NEAREST}
        evaluate_tokenizer(EvaluateConfig(tokenizer=tokenizer, data=HELD_OUT, out=str(out), threads=1, **perturbed))
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def samples_of(prior_folder: str, out: Path) -> torch.Tensor:
    """Codes of PER_CLASS samples of each class."""
    if not out.exists():
        prior = load_prior(prior_folder)
        pictures = [Picture(label, number) for number in range(PER_CLASS) for label in range(10)]
        parts = [pictures[first : first + 100] for first in range(0, len(pictures), 100)]
        torch.save(torch.cat([sample_codes(prior, part, 0, Drawing()) for part in parts]), out)
    codes: torch.Tensor = torch.load(out)
    return codes


@torch.no_grad()
def set_of(network: FeatureNetwork, batches: Any) -> Any:
    """Statistics of the features of batches of (uint8 pictures, keys)."""
    sums = SetSums(network, torch.device("cpu"))
    for pixels_BCHW, keys in batches:
        sums.add(network(pixels_BCHW), keys)
    return sums.result()


def of_samples(tokenizer: str, idx_Bhw: torch.Tensor, network: FeatureNetwork, real: Any) -> dict[str, float]:
    """Distances of decoded samples from held-out digits."""
    opened = Tokenizer.from_pretrained(tokenizer)
    parts = enumerate(idx_Bhw.split(100))
    batches = ((to_uint8(opened.decode(part)), [f"{at}-{row}" for row in range(len(part))]) for at, part in parts)
    return figures(network, set_of(network, batches), real)


def seeded(folder: Path, seed: int, network: Callable[[], tuple[FeatureNetwork, Any]]) -> dict[str, dict[str, float]]:
    """The figures of one seed, by run."""
    known = folder / "figures.json"
    if known.exists():
        found: dict[str, dict[str, float]] = json.loads(known.read_text())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    plain = tokenizer_run(folder / "plain", seed)
    perturbed = tokenizer_run(folder / "perturbed", seed, *PERTURB)
    codes, redrawn = folder / "codes", folder / "redrawn"
    if not (codes / "index.json").exists():
        encode(EncodeConfig(tokenizer=plain, data=TRAIN, out=str(codes), threads=1))
    prior = folder / "prior"
    if not (prior / "prior" / "prior.json").exists():
        words = ["--run.folder", str(prior), "--run.seed", str(seed), "--tokenizer", plain]
        words += ["--data.index", str(codes / "index.json"), *PRIOR]
        train_prior(parse(PriorTrainConfig, words, prog="robustness"))
    if not (redrawn / "index.json").exists():
        redraw(RedrawConfig(prior=str(prior), codes=str(codes / "index.json"), out=str(redrawn), batch_size=100))
    tuning = [*TUNING, "--init", plain, "--data.codes"]
    tuned = tokenizer_run(folder / "tuned", seed, *tuning, str(redrawn / "index.json"))
    longer = tokenizer_run(folder / "longer", seed, *tuning, str(codes / "index.json"))
    idx_Bhw = samples_of(str(prior), folder / "samples.pt")
    features, real = network()
    result = {}
    for name, place in (("plain", plain), ("perturbed", perturbed), ("longer", longer), ("tuned", tuned)):
        measured = reconstructions(place, folder / f"{name}.json")
        result[name] = {key: value for key, value in measured.items() if isinstance(value, (int, float))}
        if name != "perturbed":
            distances = of_samples(place, idx_Bhw, features, real)
            result[name] |= {f"samples_{key}": value for key, value in distances.items()}
    known.write_text(json.dumps(result, indent=1))
    return result


def real_set() -> tuple[FeatureNetwork, Any]:
    """The feature network and the held-out digits' statistics."""
    network = load_network("vgg16")
    assert network is not None
    config = parse(TokenizerTrainConfig, ["--config", TOKENIZER, "--run.folder", "none"], prog="robustness")
    batches = every_sample(HELD_OUT, config.data.transform, batch_size=100, threads=1)
    return network, set_of(network, ((batch.pixels_BCHW, batch.keys) for batch in batches))


def table(by_seed: dict[int, dict[str, dict[str, float]]]) -> str:
    """Means over the seeds, and paired differences with the number of seeds in which they have their sign."""
    perturbed = f"frechet_vgg16_perturbed_{SHARE:g}_of_{NEAREST}"
    columns = ["psnr", "lpips", "frechet_vgg16", perturbed, "samples_frechet_vgg16"]
    words = {"plain": "as it is", "perturbed": "perturbed codes", "longer": "decoder, true codes, longer"}
    words["tuned"] = "decoder, redrawn codes"
    lines = [f"| {len(by_seed)} seeds | " + " | ".join(f"`{name}`" for name in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, what in words.items():
        cells = []
        for column in columns:
            values = [of[name][column] for of in by_seed.values() if column in of[name]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4g} ± {spread:.2g}" if values else "")
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    for one, other in (("perturbed", "plain"), ("tuned", "plain"), ("tuned", "longer")):
        cells = []
        for column in columns:
            pairs = [(of[one].get(column), of[other].get(column)) for of in by_seed.values()]
            apart = [a - b for a, b in pairs if a is not None and b is not None]
            lower = sum(value < 0 for value in apart)
            cells.append(f"{statistics.mean(apart):+.3g} (lower in {lower} of {len(apart)})" if apart else "")
        lines.append(f"| {words[one]} − {words[other]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print the table after each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    kept: list[tuple[FeatureNetwork, Any]] = []

    def network() -> tuple[FeatureNetwork, Any]:
        if not kept:
            kept.append(real_set())
        return kept[0]

    by_seed: dict[int, dict[str, dict[str, float]]] = {}
    for seed in SEEDS:
        by_seed[seed] = seeded(folder / f"seed-{seed}", seed, partial(network))
        (folder / "table.md").write_text(table(by_seed) + "\n")
        print(table(by_seed), flush=True)


if __name__ == "__main__":
    main()
