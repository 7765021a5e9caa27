"""The priors in training: ours on our tokenizer's codes, LlamaGen's GPT on those of LlamaGen's.

Both see each training picture and its mirror image, as LlamaGen's extractor makes them, and are of the recipe's shape.
Shapes: B batch, N codes of a picture, C channels, H W pixels.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_sample
from data.shards.loading import load_index
from launch.command.cli import parse
from launch.run.runtime import Run
from launch.run.seeding import seed_step
from launch.run.starting import start_run
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.measuring.features import FeatureNetwork, load_network
from stage1_tokenizer.measuring.scores import EvaluationSums
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import FEED_FORWARD_MULTIPLE
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.measuring.classifier import real_samples
from stage2_prior.measuring.feature_classifier import by_vgg16
from stage2_prior.sampling.pictures import Picture, sample_codes
from stage2_prior.training.loop import build, evaluate, train_step
from tests.benchmarks.peer_steps import importable
from tests.benchmarks.race.contenders import trained
from tests.benchmarks.race.entrants import FEATURES, save_row, streamed
from tests.benchmarks.race.settings import LLAMAGEN, OURS, Race, scaled_optimizer, words_of
from tests.benchmarks.race.worker import PRIOR, Entrant, Worker, plan, planned_steps

GUIDANCES = (1.0, 1.5, 2.0, 3.0)
"""Strengths of classifier-free guidance at which both are sampled; each is judged at the one with its best distance."""
FITTED = 5000
"""Training pictures that the classifier of class agreement is fitted to."""
MOMENTS = 3
"""Measurements of each prior: they take longer than a tokenizer's."""
ROW = 10
"""Samples shown."""


def make_codes(race: Race, name: str) -> None:
    """Codes of the training and the held-out pictures, from a contender's trained tokenizer."""
    sets = {"train": race.data, "held_out": race.held_out}
    if name == OURS:
        release = race.folder / "release"
        if not release.is_dir():
            _command("stage1_tokenizer.release", str(race.folder / OURS), str(release), "--licence", "apache-2.0")
        for part, index in sets.items():
            out = race.folder / "codes" / part
            if (out / "index.json").is_file():
                continue
            _command("stage2_prior.encode", "--tokenizer", str(release), "--data", index, "--out", str(out),
                     "--flip", str(part == "train").lower())  # fmt: skip
        return
    file = race.folder / "llamagen-codes.pt"
    if file.is_file():
        return
    codec, config = trained(race, LLAMAGEN), race.config()
    positions = math.prod(config.data.transform.size // stride for stride in config.model.stride)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for part, index in sets.items():
            views = 2 if part == "train" else 1
            label_N = torch.empty(views * len(load_index(index)), dtype=torch.int64)
            # Made at once: among small tensors that stay, freed memory isn't reused.
            codes_NP, at = torch.empty(len(label_N), positions, dtype=torch.int64), 0
            for batch in every_sample(index, config.data.transform, batch_size=50):
                x_BCHW = to_float(batch.pixels_BCHW.to(race.device))
                for shown in (x_BCHW, x_BCHW.flip(-1))[:views]:
                    codes_BP = codec.encode(shown).flatten(1).cpu()
                    rows = slice(at, at := at + len(codes_BP))
                    codes_NP[rows], label_N[rows] = codes_BP, batch.label_B
            found |= {f"{part}/codes": codes_NP[:at], f"{part}/labels": label_N[:at]}
    torch.save(found, file)


def _command(module: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True, stdout=sys.stderr)


def configuration(race: Race, steps: int | None, folder: str) -> PriorTrainConfig:
    """The recipe's settings on our codes; with `steps`, its schedule keeps its shares."""
    codes = race.folder / "codes"
    places = {
        "run.folder": folder,
        "run.watchdog": "0",
        "run.trackers": "[]",
        "tokenizer": str(race.folder / "release"),
        "data.index": str(codes / "train" / "index.json"),
        "data.held_out": str(codes / "held_out" / "index.json"),
    }
    words = ["--config", race.prior, *words_of(places)]
    recipe = parse(PriorTrainConfig, words, prog="the prior's recipe")
    if steps is None:
        return recipe
    words += words_of(scaled_optimizer(recipe.optimizer, steps, recipe.steps))
    return parse(PriorTrainConfig, words, prog="the prior's recipe")


class PriorEntrant:
    """What both priors have in common: how their samples are measured."""

    state: Mapping[str, Any]

    def __init__(self, race: Race, run: Run):
        self.race, self.run = race, run

    def bits(self) -> float:
        """Bits per held-out code."""
        raise NotImplementedError

    def samples(self, label_B: Tensor, seed: int, guidance: float) -> Tensor:
        """A picture of each class, in [-1, 1]."""
        raise NotImplementedError

    def measure(self, folder: Path, moment: int, step: int, last: bool) -> dict[str, float]:
        found = {"bits_per_code": self.bits()}
        return found | (self.measured_samples(folder) if last else {})

    def measured_samples(self, folder: Path) -> dict[str, float]:
        """Figures of the samples at each strength of guidance, and those at the best one; a PNG file of some there.

        They are the distance from the held-out pictures and the class agreement.
        """
        race, transform = self.race, self.race.config().data.transform
        network = load_network(FEATURES)
        assert network is not None
        classifier = by_vgg16().fitted(*real_samples(race.data, transform, FITTED, 50), transform)
        test_B, test_BCHW = real_samples(race.held_out, transform, 1000, 50)
        label_B = torch.arange(race.samples) % len(load_index(race.data).classes)
        found, drawn = {}, {}
        for guidance in GUIDANCES:
            drawn[guidance] = self._drawn(label_B, guidance)
            right_B = classifier(drawn[guidance].numpy()) == label_B.numpy()
            found[guidance] = {**self._distances(network, drawn[guidance]), "class_agreement": float(right_B.mean())}
        best = min(GUIDANCES, key=lambda guidance: found[guidance][f"frechet_{FEATURES}"])
        for label in range(min(int(label_B.max()) + 1, 10)):
            save_row(folder / f"samples-{label}.png", drawn[best][label_B == label][:ROW])
        every = {f"{name}_at_{guidance:g}": x for guidance, figures in found.items() for name, x in figures.items()}
        return {
            **found[best], "guidance": best, "real_accuracy": float(np.mean(classifier(test_BCHW) == test_B)), **every
        }  # fmt: skip

    def _drawn(self, label_B: Tensor, guidance: float) -> Tensor:
        parts = enumerate(label_B.split(5 * (int(label_B.max()) + 1)))
        return torch.cat([to_uint8(self.samples(part_B, seed, guidance)).cpu() for seed, part_B in parts])

    def _distances(self, network: FeatureNetwork, pixels_BCHW: Tensor) -> dict[str, float]:
        sums = EvaluationSums(network.to(self.race.device), self.run.device)
        transform = self.race.config().data.transform
        held_out = every_sample(self.race.held_out, transform, batch_size=50, limit=self.race.samples)
        for real, part_BCHW in zip(held_out, pixels_BCHW.split(50), strict=True):
            sums.add(real.pixels_BCHW.to(self.race.device), part_BCHW.to(self.race.device), real.keys)
        return sums.distances(self.run)


class OurPrior(PriorEntrant):
    """stage2_prior, with its own step, averages and checkpoint."""

    def __init__(self, race: Race, config: PriorTrainConfig, run: Run):
        super().__init__(race, run)
        self.config, self.held_out = config, load_index(str(config.data.held_out))
        self.tokenizer = Tokenizer.from_pretrained(config.tokenizer).eval().to(race.device)
        self.raw, self.strategy, self.ema, _ = build(config, load_index(config.data.index), run)
        self.state = {**self.strategy.state("prior"), "ema": self.ema.state}

    def batches(self, start: int) -> contextlib.AbstractContextManager[Iterator[Any]]:
        return streamed(self.config, start)

    def step(self, batch: Any, number: int, done: float) -> None:
        seed_step(self.config.run.seed, 0, number)
        self.raw.set_progress(number / self.config.steps)
        train_step(self.raw, self.strategy, batch, self.config, number, self.run)
        self.ema.update(number)

    def bits(self) -> float:
        return evaluate(self.raw, self.ema, self.held_out, self.run)["eval/bits_per_code"]

    @torch.no_grad()
    def samples(self, label_B: Tensor, seed: int, guidance: float) -> Tensor:
        wanted = [Picture(label, number) for number, label in enumerate(label_B.tolist())]
        with self.ema.applied():
            self.raw.eval()
            idx_Bhw = sample_codes(self.raw, wanted, seed, Drawing(guidance=guidance))
            self.raw.train()
        return self.tokenizer.decode(idx_Bhw)


class LlamaGensPrior(PriorEntrant):
    """LlamaGen's GPT, with the step of its `train_c2i.py` and its `generate`."""

    def __init__(self, race: Race, config: PriorTrainConfig, run: Run):
        super().__init__(race, run)
        self.config, self.found = config, torch.load(race.folder / "llamagen-codes.pt", weights_only=True)
        self.codec, tokenizer, model = trained(race, LLAMAGEN), race.config().model, config.model
        with importable(Path(race.peer, "LlamaGen")):
            from autoregressive.models import generate, gpt

            self.generate = generate.generate
            torch.manual_seed(config.run.seed)
            self.classes = len(load_index(race.data).classes)
            self.positions = self.found["train/codes"].shape[1]
            self.model = gpt.Transformer(
                gpt.ModelArgs(
                    dim=model.width, n_layer=model.layers, n_head=model.heads, multiple_of=FEED_FORWARD_MULTIPLE,
                    num_classes=self.classes, vocab_size=tokenizer.quantizer.codebook_size, block_size=self.positions,
                )
            ).to(race.device)  # fmt: skip
        decayed = [weight for weight in self.model.parameters() if weight.dim() >= 2]
        others = [weight for weight in self.model.parameters() if weight.dim() < 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=race.prior_rate, betas=(0.9, 0.95), fused=True)
        self.state = {"model": self.model, "optimizer": self.optimizer}

    def batches(self, start: int) -> contextlib.AbstractContextManager[Iterator[Any]]:
        return contextlib.nullcontext(self._batches(start))

    def _batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        count, size = len(self.found["train/codes"]), self.config.data.batch_size
        number = start
        while True:
            epoch, at = divmod(number, count // size)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
            for rows in order.split(size)[at : count // size]:
                yield self.found["train/codes"][rows], self.found["train/labels"][rows]
                number += 1

    def step(self, batch: tuple[Tensor, Tensor], number: int, done: float) -> None:
        code_BN, label_B = (part.to(self.race.device) for part in batch)
        loss = self.model(cond_idx=label_B, idx=code_BN[:, :-1], targets=code_BN)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def bits(self) -> float:
        self.model.eval()
        nats, places = 0.0, torch.arange(self.positions, device=self.race.device)
        codes, labels = (self.found[f"held_out/{name}"].to(self.race.device) for name in ("codes", "labels"))
        for code_BN, label_B in zip(codes.split(100), labels.split(100), strict=True):
            loss = self.model(cond_idx=label_B, idx=code_BN[:, :-1], input_pos=places, targets=code_BN)[1]
            nats += float(loss) * len(code_BN)
        self.model.train()
        return nats / len(codes) / math.log(2)

    @torch.no_grad()
    def samples(self, label_B: Tensor, seed: int, guidance: float) -> Tensor:
        self.model.eval()
        torch.manual_seed(seed)
        settings = {"cfg_scale": guidance, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "sample_logits": True}
        code_BN = self.generate(self.model, label_B.to(self.race.device), self.positions, **settings)
        for layer in self.model.layers:
            layer.attention.kv_cache = None  # its training has none
        self.model.train()
        side = math.isqrt(self.positions)
        return self.codec.decode(code_BN.view(-1, side, side))


@contextlib.contextmanager
def prior(race: Race, name: str, config: PriorTrainConfig) -> Iterator[Entrant]:
    """A contender's prior with these settings, ready to be trained in config.run.folder."""
    with start_run(config, config.run) as run:
        yield (OurPrior if name == OURS else LlamaGensPrior)(race, config, run)


def rehearse_prior(race: Race) -> None:
    """Plan our prior's steps."""
    make_codes(race, OURS)
    with prior(race, OURS, configuration(race, 100, str(race.folder / "prior-trial"))) as entrant:
        plan(race.folder / f"{PRIOR}{OURS}", race.prior_minutes * 60, 1.0, entrant)


@contextlib.contextmanager
def entered_prior(race: Race, name: str) -> Iterator[Worker]:
    """The worker of a contender's prior."""
    folder = race.folder / f"{PRIOR}{name}"
    steps = planned_steps(folder)
    make_codes(race, name)
    with prior(race, name, configuration(race, steps, str(folder))) as entrant:
        yield Worker(race, folder, entrant, steps, race.prior_minutes * 60, MOMENTS)
