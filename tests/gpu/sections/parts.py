"""Whole training steps of both stages as their loops take them, on made-up batches; for measuring and for tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from data.codes.batches import CodeBatch
from data.config import CodeDataConfig
from data.pictures.batches import PictureBatch
from launch.command.cli import parse
from launch.config import RunConfig
from launch.ranks import start
from launch.run.runtime import Run
from launch.run.seeding import seed_step
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.media import MEDIA
from stage1_tokenizer.training import loop as tokenizer_loop
from stage1_tokenizer.training.cuda_graph import CapturedStep
from stage1_tokenizer.training.trained import Trained, build
from stage2_prior.codes.source import CodeSource
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.config.training import PriorTrainConfig
from stage2_prior.priors.base import Prior
from stage2_prior.priors.build import build_prior
from stage2_prior.training import loop as prior_loop

QUIET = {"log_every": 1 << 30, "trackers": [], "watchdog": 0.0}
"""A run that logs nothing, so that no step waits for figures."""

VGG = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
"""Widths of VGG16's convolutions."""
HEADS = (64, 128, 256, 512, 512)


@contextmanager
def random_vgg() -> Iterator[None]:
    """LPIPS gets random weights of VGG16's shapes inside: what a step takes doesn't depend on them."""

    def kernels(net: str, weights: str | None) -> list[tuple[Tensor, Tensor]]:
        inputs = (3, *VGG)
        return [
            (torch.randn(outputs, inputs[number], 3, 3) * (2 / (9 * inputs[number])) ** 0.5, torch.zeros(outputs))
            for number, outputs in enumerate(VGG)
        ]

    def heads(net: str) -> list[Tensor]:
        return [torch.rand(1, width, 1, 1) / width for width in HEADS]

    place = "stage1_tokenizer.losses.lpips"
    with mock.patch(f"{place}.find_kernels", kernels), mock.patch(f"{place}.find_heads", heads):
        yield


def compile_quickly() -> None:
    """For rehearsals: torch.compile traces as ever, but what it found runs as it is.

    Inductor's C++ compiler would take minutes on a CPU.
    """
    wrapper = "torch._TorchCompileInductorWrapper.__call__"
    mock.patch(wrapper, lambda self, module, inputs: module.forward).start()


def run_of(config: RunConfig, device: str) -> Run:
    """A run of one process on a device; it writes no files but its folder's."""
    with mock.patch.dict(os.environ, {"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {}):
        accelerator = start.start(config)
    if accelerator.device.type != device:
        raise RuntimeError(f"accelerate computes on {accelerator.device}, not on {device}")
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(config, accelerator, folder)


def pinned(tensor: Tensor, device: str) -> Tensor:
    """As the data loader leaves it: in memory from which copies to a GPU don't wait."""
    return tensor.pin_memory() if device == "cuda" else tensor


class Repeated:
    """For rehearsals, in place of CUDA graphs: what would be captured is done again."""

    def run(self, step: Callable[[], Any]) -> Any:
        """The step as it is."""
        return step()

    def capture(self, step: Callable[[], Any]) -> tuple[Callable[[], Any], Any]:
        """The step, and what it returned."""
        return step, step()


class StageOne:
    """A tokenizer in training; a call is one step with all that the loop does, but for reading data."""

    def __init__(self, words: list[str], folder: Path, device: str, pictures: int):
        """`words` are options of stage1_tokenizer.train, a recipe among them."""
        given = [f"--run.{name}={value}" for name, value in QUIET.items()]
        given += [f"--run.folder={folder}", f"--data.batch_size={pictures}"]
        self.config = parse(TokenizerTrainConfig, [*words, *given], prog="stage one")
        self.run, self.step, self.pictures = run_of(self.config.run, device), 0, pictures
        torch.manual_seed(0)
        with random_vgg():
            terms = MEDIA[self.config.data.kind].terms(self.config.loss)
        self.trained: Trained = build(self.config, terms, self.run)
        if self.config.cuda_graph and device == "cpu":
            self.take: Any = CapturedStep(self.config, self.trained, tokenizer_loop.train_step, Repeated())
        else:
            self.take = tokenizer_loop._step(self.config, self.trained, self.run)
        transform = self.config.data.transform
        shape = (pictures, transform.channels, transform.size, transform.size)
        pixels_BCHW = torch.randint(256, shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        self.pixels_BCHW = pinned(pixels_BCHW, device)

    def __call__(self) -> dict[str, Any]:
        """One step; its scalars, still on the device."""
        config, run = self.config, self.run
        batch = PictureBatch(self.step, self.pixels_BCHW, torch.zeros(self.pictures), [])
        seed_step(config.run.seed, run.rank, self.step)
        x_BCHW = MEDIA[config.data.kind].input(batch, run.device)
        scalars, good = self.take(x_BCHW, self.step)
        run.record(scalars, step=self.step, samples=self.pictures, good=good)
        self.step += 1
        return scalars


class StageTwo:
    """A prior in training; a call is one step with all that the loop does, but for reading data."""

    def __init__(
        self,
        model: PriorModelConfig,
        source: CodeSource,
        folder: Path,
        device: str,
        samples: int,
        *,
        classes: int = 10,
        precision: str = "bf16",
        quantizer: Any = None,
        **settings: Any,
    ):
        run = RunConfig(folder=str(folder), precision=precision, **QUIET)  # type: ignore[arg-type]
        data = CodeDataConfig(index="none", batch_size=samples)
        self.config = PriorTrainConfig(run=run, data=data, tokenizer="none", model=model, **settings)
        self.run, self.step, self.samples = run_of(run, device), 0, samples
        torch.manual_seed(0)
        names = tuple(map(str, range(classes)))
        raw = build_prior(model, source, names, quantizer)
        with mock.patch.object(prior_loop, "fresh", lambda *_: raw):
            self.raw: Prior
            self.raw, self.strategy, self.ema, self.cost = prior_loop.build(self.config, mock.Mock(), self.run)
        generator = torch.Generator().manual_seed(1)
        codes = torch.randint(source.codebook_size, (samples, *source.shape), generator=generator)
        self.idx_Bhw = pinned(codes, device)
        self.label_B = pinned(torch.randint(classes, (samples,), generator=generator), device)

    def __call__(self) -> dict[str, Any]:
        """One step; its scalars, still on the device."""
        seed_step(self.config.run.seed, self.run.rank, self.step)
        batch = CodeBatch(self.step, self.idx_Bhw, self.label_B, [])
        scalars, good = prior_loop.train_step(self.raw, self.strategy, batch, self.config, self.step, self.run)
        self.ema.update(self.step)
        self.run.record(scalars, step=self.step, samples=self.samples, good=good)
        self.step += 1
        return scalars
