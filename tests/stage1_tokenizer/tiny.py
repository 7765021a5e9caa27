"""A tokenizer so small that it trains in seconds, on digits that ship with the project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from data.pictures.config import TransformConfig
from stage1_tokenizer.config.training import ModelConfig, QuantizerConfig
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests import forked

ROOT = Path(__file__).resolve().parent.parent.parent
TRAIN, HELD_OUT = "data/samples/mnist/train.json", "data/samples/mnist/held_out.json"

TRANSFORM = TransformConfig(size=16, channels=1, fit="stretch", background=0)

OPTIONS = {
    "data.index": TRAIN,
    "data.held_out": HELD_OUT,
    "data.batch_size": "8",
    "data.transform.size": "16",
    "data.transform.channels": "1",
    "data.transform.fit": "stretch",
    "model.in_channels": "1",
    "model.channels": "8",
    "model.channel_multipliers": "[1, 1]",
    "model.res_blocks": "1",
    "model.z_channels": "8",
    "model.dropout": "0.1",
    "model.quantizer.codebook_size": "32",
    "model.quantizer.code_dim": "4",
    "model.quantizer.learning": "moving_average",
    "model.quantizer.start": "batch",
    "model.quantizer.revive_after": "3",
    "loss.perceptual.weight": "0",
    "loss.adversarial.start": "2",
    "loss.adversarial.ramp": "4",
    "loss.adversarial.channels": "4",
    "loss.adversarial.layers": "1",
    "optimizer.warmup": "3",
    "optimizer.decay": "cosine",
    "optimizer.ema_decay": "0.9",
    "optimizer.learning_rate": "0.001",
    "evaluate_samples": "20",
    "run.trackers": "[]",
    "run.log_every": "1",
    "run.save_every": "2",
    "steps": "8",
}
"""A whole training run: every kind of state, and no LPIPS, which would take most of the time."""


def arguments(folder: Path, **changes: Any) -> list[str]:
    """Command-line options of a tiny run; `run__save_every=3` changes run.save_every."""
    options = {**OPTIONS, "run.folder": str(folder)}
    options |= {name.replace("__", "."): str(value) for name, value in changes.items()}
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def tokenizer(kind: str = "vq", seed: int = 0) -> Tokenizer:
    """An untrained one, in evaluation mode: 16×16 grey pixels, 8×8 codes out of 32."""
    torch.manual_seed(seed)
    quantizer = QuantizerConfig(kind=kind, codebook_size=32, code_dim=4)  # type: ignore[arg-type]
    config = ModelConfig(
        in_channels=1, channels=8, channel_multipliers=[1, 1], res_blocks=1, z_channels=8, quantizer=quantizer
    )
    return Tokenizer(config, TRANSFORM).eval()


def environment() -> dict[str, str]:
    """One thread a process, and nothing of a launcher's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "TORCHELASTIC_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "ACCELERATE_USE_CPU": "true"}


def command(module: str, options: list[str], processes: int = 1) -> list[str]:
    """How to start a module on some ranks, with its exit code kept."""
    if processes == 1:
        return [sys.executable, "-m", module, *options]
    return [sys.executable, "-m", "launch.local", "--processes", str(processes), module, *options]


def call(module: str, options: list[str], processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, forked; of several ranks, the launcher is forked and the ranks are not."""
    return forked.call(command(module, options, processes), env=environment())
