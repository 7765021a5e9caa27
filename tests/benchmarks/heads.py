"""Heads for huge vocabularies on MNIST: paired runs with three seeds, and memory at 2^18 codes, as Markdown tables.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.heads runs/heads        # rerun it to go on; --steps 100 for a trial

At 2^10 codes (lfq): priors with each `model.head` are trained alike, but for the seed of weights and order, on one
tokenizer's codes, and rated on held-out digits. Masked priors are rated by bounds, that of `masked bits` over masked
groups instead of masked codes. At 2^18 codes (lfq) each head is trained and samples in a process of its own, whose
largest resident memory is told. Digits are reduced to 16×16 pixels, 4×4 codes. One core; each run takes less than three
minutes on a quiet one. RUNS/tables.md has the tables, of what is done so far.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import yaml

from data.shards.loading import load_index
from launch.command.cli import parse
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.tokenizer.opening import open_run
from stage1_tokenizer.train import train as train_tokenizer
from stage2_prior.config.encoding import EncodeConfig
from stage2_prior.config.sampling import SampleConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.encode import encode
from stage2_prior.measuring.held_out import held_out_figures
from stage2_prior.priors.build import load_prior
from stage2_prior.sample import sample
from stage2_prior.train import train as train_prior

DATA = {"train": "data/samples/mnist/train.json", "held_out": "data/samples/mnist/held_out.json"}
SEEDS, SMALL, LARGE = (0, 1, 2), 10, 18
LEAST_PERPLEXITY = 64
"""Of a tokenizer's codes: with fewer, all heads are as good as each other."""
HEADS = {
    "softmax": ["--model.head", "softmax"],
    "factors": ["--model.head", "factors"],
    "bits": ["--model.head", "bits"],
    "wide bits": ["--model.head", "bits", "--model.head_width", "384"],  # four times the Llama's; BAR's have twice
    "masked softmax": ["--model.kind", "masked", "--model.head", "softmax"],
    "masked factors": ["--model.kind", "masked", "--model.head", "factors"],
    "masked bits": ["--model.kind", "masked", "--model.head", "bits"],
}
MODEL = "--model.layers 3 --model.width 96 --model.heads 3 --model.head_layers 2 --data.batch_size 32 --data.threads 1"
PRIOR = f"{MODEL} --optimizer.learning_rate 2e-3 --optimizer.warmup 50 --run.trackers [] --run.log_every 50"


def tokenizer_of(bits: int, folder: Path, steps: int) -> Path:
    """The folder of an lfq tokenizer of so many bits, with codes/train and codes/held_out beside it."""
    place = folder / f"{bits}-bits"
    settings = f"""
run: {{folder: {place / "run"}, trackers: [], log_every: 50, save_every: 100}}
data:
  index: {DATA["train"]}
  held_out: null
  batch_size: 32
  threads: 1
  transform: {{size: 16, channels: 1, fit: stretch, background: 0}}
model:
  in_channels: 1
  channels: 16
  channel_multipliers: [1, 2, 2]
  res_blocks: 1
  z_channels: 32
  quantizer: {{kind: lfq, codebook_size: {1 << bits}, entropy_weight: 0.1, entropy_bits: 9}}
loss: {{pixel: l2, perceptual: {{weight: 0}}, adversarial: {{weight: 0}}}}
optimizer: {{learning_rate: 2.0e-3, warmup: 20, decay: cosine, ema_decay: 0.99}}
steps: {steps}
"""
    if not (place / "tokenizer").exists():
        words = ["--config", json.dumps(yaml.safe_load(settings))]
        train_tokenizer(parse(TokenizerTrainConfig, words, prog="heads"))
        open_run(place / "run").tokenizer.save_pretrained(place / "tokenizer")
    for name, data in DATA.items():
        out = place / "codes" / name
        if not (out / "index.json").exists():
            encode(EncodeConfig(tokenizer=str(place / "tokenizer"), data=data, out=str(out), threads=1, batch_size=64))
        use = load_index(str(out / "index.json")).meta
        if use["perplexity"] < LEAST_PERPLEXITY:
            raise SystemExit(f"{out}: the tokenizer has collapsed to a perplexity of {use['perplexity']:.1f}")
    return place


def trained(place: Path, head: str, seed: int, steps: int) -> Path:
    """Train, or go on training, a prior; its run's folder."""
    run = place / f"{head.replace(' ', '-')}-{seed}"
    if not (run / "prior").exists():
        words = [*PRIOR.split(), *HEADS[head], "--run.folder", str(run), "--run.seed", str(seed)]
        words += ["--tokenizer", str(place / "tokenizer"), "--data.index", str(place / "codes/train/index.json")]
        words += ["--steps", str(steps), "--run.save_every", str(steps), "--data.held_out", "null"]
        train_prior(parse(PriorTrainConfig, words, prog="heads"))
    return run


def rated(place: Path, head: str, seed: int, steps: int) -> dict[str, float]:
    """Held-out bits a code, and seconds of the training."""
    known = place / f"{head.replace(' ', '-')}-{seed}.json"
    if not known.exists():
        began = time.process_time()
        run = trained(place, head, seed, steps)
        seconds = time.process_time() - began
        figures = held_out_figures(load_prior(run), str(place / "codes/held_out/index.json"))
        known.write_text(json.dumps({**figures, "seconds": seconds}))
    found: dict[str, float] = json.loads(known.read_text())
    return found


def resident() -> float:
    """The largest resident memory of this process so far, in MB; getrusage's would count the one that began it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux tells"
    return int(found[1]) / 1024


def alone(place: Path, head: str, steps: int) -> None:
    """In a process of its own: train a head at 2^LARGE codes, draw samples, and print memory and time."""
    began = time.process_time()
    run = trained(place, head, 0, steps)
    seconds = time.process_time() - began
    peak = resident()
    figures = held_out_figures(load_prior(run), str(place / "codes/held_out/index.json"))
    drawing: dict[str, Any] = {"count": 2, "batch_size": 20}
    sample(SampleConfig(prior=str(run), tokenizer=str(place / "tokenizer"), out=f"{run}-samples", **drawing))
    parameters = sum(weight.numel() for weight in load_prior(run).parameters()) / 1e6
    about = {"seconds": seconds, "training": peak, "whole": resident(), "parameters": parameters, **figures}
    Path(f"{run}.json").write_text(json.dumps(about))


def tables(folder: Path) -> str:
    """What is there of the results."""
    lines = [
        f"2^{SMALL} codes: held-out bits a code, three seeds; difference from softmax of the same kind and seed",
        "",
        "| head | bits per code | difference | CPU seconds |",
        "|---|---|---|---|",
    ]
    found = {}
    for head in HEADS:
        files = [folder / f"{SMALL}-bits" / f"{head.replace(' ', '-')}-{seed}.json" for seed in SEEDS]
        found[head] = {
            seed: json.loads(file.read_text()) for seed, file in zip(SEEDS, files, strict=True) if file.exists()
        }
    for head, runs in found.items():
        if not runs:
            continue
        softmax = found["masked softmax" if "masked" in head else "softmax"]
        apart = [runs[seed]["bits_per_code"] - softmax[seed]["bits_per_code"] for seed in runs if seed in softmax]
        values = ", ".join(f"{one['bits_per_code']:.3f}" for one in runs.values())
        mean = f"{statistics.mean(apart):+.3f} ({', '.join(f'{one:+.3f}' for one in apart)})" if apart else ""
        seconds = statistics.mean(one["seconds"] for one in runs.values())
        lines.append(f"| {head} | {values} | {mean} | {seconds:.0f} |")
    lines += ["", f"2^{LARGE} codes: one run each", ""]
    lines += [
        "| head | M parameters | peak MB in training | with evaluation and sampling | bits per code | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for head in HEADS:
        if (file := folder / f"{LARGE}-bits" / f"{head.replace(' ', '-')}-0.json").exists():
            one = json.loads(file.read_text())
            sizes = f"{one['parameters']:.2f} | {one['training']:.0f} | {one['whole']:.0f}"
            lines.append(f"| {head} | {sizes} | {one['bits_per_code']:.2f} | {one['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--steps", type=int, default=400, help="steps of each prior at 2^10 codes; a quarter at 2^18")
    parser.add_argument("--alone", choices=HEADS, help="one head at 2^18 codes, as this script calls itself")
    options = parser.parse_args()
    folder, steps = options.runs, options.steps
    if options.alone:
        alone(folder / f"{LARGE}-bits", options.alone, steps // 4)
        return
    small, causal = tokenizer_of(SMALL, folder, steps), [head for head in HEADS if "masked" not in head]
    for seed in SEEDS:
        for head in causal:
            rated(small, head, seed, steps)
    large = tokenizer_of(LARGE, folder, steps)
    for head in [*(head for head in HEADS if "softmax" not in head), "softmax"]:
        if not (large / f"{head.replace(' ', '-')}-0.json").exists():
            words = [str(folder), "--alone", head, "--steps", str(steps)]
            subprocess.run([sys.executable, "-m", "tests.benchmarks.heads", *words], check=True)
    for seed in SEEDS:
        for head in HEADS:
            rated(small, head, seed, steps)
    (folder / "tables.md").write_text(tables(folder))
    print(tables(folder))


if __name__ == "__main__":
    main()
