"""Steps of stage one on fake CUDA tensors, by the training's own code."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from data.pictures.batches import PictureBatch
from data.sounds.batches import SoundBatch
from data.sounds.config import SoundConfig
from data.videos.batches import VideoBatch
from data.videos.config import VideoConfig
from launch.command.cli import parse
from launch.config import RunConfig
from launch.run.runtime import Run
from launch.run.seeding import seed_step
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.layers import spectrum
from stage1_tokenizer.losses import lpips, spectral
from stage1_tokenizer.media import MEDIA
from stage1_tokenizer.training.loop import train_step
from stage1_tokenizer.training.monitor import Monitor
from stage1_tokenizer.training.trained import Trained, build
from tests.gpu.watch import CUDA

QUIET = ["--run.trackers", "[]", "--run.watchdog", "0", "--compile", "false"]


def run_of_one(config: RunConfig, device: torch.device = CUDA) -> Run:
    """A run of one rank on a device, which may be the fake one."""
    accelerator: Any = SimpleNamespace(
        device=device,
        num_processes=1,
        process_index=0,
        is_main_process=True,
        autocast=lambda: torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"),
        backward=torch.Tensor.backward,
        prepare=lambda module: module,
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
        no_sync=lambda module: contextlib.nullcontext(),
        log=lambda *_, **__: None,
    )
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(config, accelerator, folder)


def random_lpips(net: Any = "vgg", weights: str | None = None) -> lpips.LPIPS:
    """LPIPS with weights of the right shapes: what it costs and whether it waits doesn't depend on their values."""
    kernels, inputs = [], 3
    for outputs, width, _, _ in lpips._convolutions(net):
        kernels.append((torch.randn(outputs, inputs, width, width), torch.zeros(outputs)))
        inputs = outputs
    tapped = {"vgg": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}[net]
    return lpips.LPIPS(net, kernels, [torch.rand(width) for width in tapped]).eval()


class Stage1:
    """A training of stage one; make it and call `step` inside `pretend()`."""

    def __init__(self, options: Sequence[str], pictures: int | None = None):
        """`options` are the command's; `pictures` a step has, by default data.batch_size."""
        self.config: TokenizerTrainConfig = parse(TokenizerTrainConfig, [*options, *QUIET], prog="")
        self.pictures = pictures or self.config.data.batch_size
        self.run = run_of_one(self.config.run)
        self.medium = MEDIA[self.config.data.kind]
        for kept in (lpips.evenly_spread, spectrum.hann, spectrum.mel_filters, spectral._filters):
            kept.cache_clear()  # fakes of one `pretend` are no tensors of the next
        loading = [
            mock.patch(f"stage1_tokenizer.media.{kind}.load_lpips", random_lpips) for kind in ("pictures", "videos")
        ]
        with loading[0], loading[1]:
            terms = self.medium.terms(self.config.loss, self.config.data.transform)
        told = mock.patch.object(
            lpips.PerceptualTerm, "compared", return_value=(0.0, 0.0)
        )  # said before the first step
        with told, _vit_without_file() if _has_dino(self.config) else contextlib.nullcontext():
            self.trained: Trained = build(self.config, terms, self.run)
        self.monitor = Monitor.of(self.config, self.trained.tokenizer)
        self.number = 0

    def batch(self) -> PictureBatch | SoundBatch | VideoBatch:
        """Pinned, as the stream's batches are where there is a GPU."""
        transform = self.config.data.transform
        if isinstance(transform, SoundConfig):
            samples = torch.empty((self.pictures, transform.channels, transform.length), dtype=torch.int16)
            lengths = torch.full((self.pictures,), transform.length).pin_memory()
            return SoundBatch(self.number, samples.pin_memory(), lengths, torch.zeros(self.pictures).long(), [])
        shape = (self.pictures, transform.channels, *transform.sizes)
        pixels = torch.empty(shape, dtype=torch.uint8).pin_memory()
        kind = VideoBatch if isinstance(transform, VideoConfig) else PictureBatch
        return kind(self.number, pixels, torch.zeros(self.pictures, dtype=torch.int64), [])

    def step(self) -> None:
        """One step with all that the loop does in it."""
        batch = self.batch()
        seed_step(self.config.run.seed, 0, self.number)
        inputs = self.medium.input(batch, self.run.device)
        beside = self.medium.beside(batch, self.run.device)
        scalars, good = train_step(self.config, self.trained, inputs, self.number, **beside)
        logged = self.run.record(scalars, step=self.number, samples=self.config.data.batch_size, good=good)
        self.run.note(self.number, self.monitor.look(logged or {}))
        self.number += 1


def _has_dino(config: TokenizerTrainConfig) -> bool:
    return any(adversary.discriminator == "dino" for adversary in config.loss.adversaries.values())


def _vit_without_file() -> contextlib.AbstractContextManager[Any]:
    """transformers loads weights in threads, which fakes don't reach: inside, they are drawn."""
    from transformers import ViTModel

    def drawn(_: Any, config: Any, attn_implementation: str, **__: Any) -> ViTModel:
        config._attn_implementation = attn_implementation
        return ViTModel(config, add_pooling_layer=False)

    return mock.patch.object(ViTModel, "from_pretrained", drawn)
