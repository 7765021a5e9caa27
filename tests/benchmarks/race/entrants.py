"""Which process trains what: the tokenizers and the priors as a worker sees them.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import Stream, every_sample
from launch.run.runtime import Run
from launch.run.starting import start_run
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.losses.lpips import load_lpips
from stage1_tokenizer.measuring.features import load_network
from stage1_tokenizer.measuring.scores import EvaluationSums, measure
from stage2_prior.config.training import PriorTrainConfig
from tests.benchmarks.race.contenders import Ours, Theirs
from tests.benchmarks.race.settings import OURS, Race, words_of
from tests.benchmarks.race.worker import PROBE, Entrant, Worker, plan, planned_steps

SHOWN = 10
"""Held-out pictures whose reconstructions are kept at each moment."""
FEATURES = "vgg16"


class TokenizerEntrant:
    """A tokenizer, its data and its evaluation, which are the same for all."""

    def __init__(self, race: Race, config: TokenizerTrainConfig, contender: Ours | Theirs, run: Run):
        self.race, self.config, self.contender, self.run = race, config, contender, run
        self.state: Mapping[str, Any] = contender.state
        self.lpips = load_lpips().to(race.device)
        self.network = load_network(FEATURES, lpips=self.lpips)

    def step(self, batch: Any, number: int, done: float) -> None:
        self.contender.step(to_float(batch.pixels_BCHW.to(self.race.device)), number, done)

    def batches(self, start: int) -> contextlib.AbstractContextManager[Iterator[Any]]:
        return streamed(self.config, start)

    def held_out(self, count: int) -> Iterator[Any]:
        data = self.config.data
        return every_sample(self.race.held_out, data.transform, batch_size=50, threads=data.threads, limit=count)

    def measure(self, folder: Path, moment: int, step: int, last: bool) -> dict[str, float]:
        device, codec = self.run.device, self.contender.codec()
        assert self.network is not None
        sums = EvaluationSums(self.network.to(device), device)
        found = measure(codec, self.held_out(self.race.pictures), self.lpips, device=device, sums=sums)  # type: ignore[arg-type]
        found |= sums.distances(self.run)
        for batch in self.held_out(SHOWN):
            with torch.no_grad():
                recon_BCHW = codec.reconstruct(to_float(batch.pixels_BCHW.to(device)))[0]
            save_row(folder / f"moment-{moment:03d}.png", to_uint8(recon_BCHW).cpu())
            if moment == 1:
                save_row(self.race.folder / "originals.png", batch.pixels_BCHW)
        self.run.log(step, {f"eval/{name}": value for name, value in found.items()})
        return found


@contextlib.contextmanager
def streamed(config: TokenizerTrainConfig | PriorTrainConfig, start: int) -> Iterator[Iterator[Any]]:
    """A configuration's training batches from step `start` on."""
    with Stream(config.data, seed=config.run.seed) as stream:
        yield stream.batches(start)


def save_row(path: Path, pixels_BCHW: Tensor) -> None:
    """Pictures beside each other in a PNG file."""
    row_HWC = np.concatenate(list(pixels_BCHW.permute(0, 2, 3, 1).numpy()), axis=1)
    Image.fromarray(row_HWC.squeeze()).save(path)


@contextlib.contextmanager
def tokenizer(race: Race, name: str, config: TokenizerTrainConfig) -> Iterator[Entrant]:
    """A contender's tokenizer with these settings, ready to be trained in config.run.folder."""
    with start_run(config, config.run) as run:
        contender = Ours(config, run) if name == OURS else Theirs(race, name, config)
        yield TokenizerEntrant(race, config, contender, run)


def rehearse(race: Race) -> None:
    """Plan our steps: with a discriminator or pictures of full size from step 2·PROBE on, where there is that."""
    recipe, trial = race.config(), str(race.folder / "trial")
    adversarial, early = recipe.loss.adversarial, recipe.data.early_steps
    changes = {"loss.adversarial.start": 2 * PROBE, "data.early_steps": 2 * PROBE * bool(early)}
    config = race.config(4 * PROBE, "--run.folder", trial, *words_of(changes))
    first = early or (adversarial.start if adversarial.weight else recipe.steps)
    start = first / recipe.steps
    with tokenizer(race, OURS, config) as entrant:
        plan(race.folder / OURS, race.minutes * 60, start, entrant)


@contextlib.contextmanager
def entered(race: Race, name: str) -> Iterator[Worker]:
    """The worker of a contender's tokenizer."""
    folder = race.folder / name
    steps = planned_steps(folder)
    own = [] if name == OURS else ["--data.early_steps", "0"]
    config = race.config(steps, "--run.folder", str(folder), "--run.watchdog", "0", *own)
    with tokenizer(race, name, config) as entrant:
        yield Worker(race, folder, entrant, steps, race.minutes * 60, race.moments)
