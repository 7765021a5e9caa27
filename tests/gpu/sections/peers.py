"""The whole training steps of taming-transformers and LlamaGen, from gathered files, with their own optimizers.

tests/benchmarks/peer_steps.py has their forward and backward passes on our weights; here come what their training
loops have besides: Adam for both networks and, in LlamaGen's, averaged weights. Both run in the same autocast as ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch

from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.losses.lpips import load_lpips
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.gpu.sections.bench import Bench
from tests.gpu.sections.parts import random_vgg

FOLDERS = {"taming": "taming-transformers", "llamagen": "LlamaGen"}
BETAS = {"taming": (0.5, 0.9), "llamagen": (0.9, 0.95)}
EMA = 0.9999


def gathered_peers(bench: Bench) -> Path | None:
    """The folder of the peers' files, if it is there."""
    return bench.gathered_file("peers")


class PeerStep:
    """A peer's training step on our architecture; a call is one step on the same batch."""

    def __init__(
        self, which: str, folder: Path, config: TokenizerTrainConfig, device: str, *, precision: str, compiled: bool
    ):
        from tests.benchmarks.peer_steps import LlamaGen, Taming

        size, adversarial = config.data.transform.size, config.loss.adversarial
        torch.manual_seed(0)
        model = replace(config.model, quantizer=replace(config.model.quantizer, l2_normalise=False))
        generator, discriminator = Tokenizer(model), build_discriminator(adversarial, model.in_channels)
        with random_vgg():
            lpips = load_lpips()
        peers: dict[str, Callable[[], Any]] = {
            "taming": lambda: Taming(folder / FOLDERS[which], model, size, adversarial.weight),
            "llamagen": lambda: LlamaGen(folder / FOLDERS[which], model, adversarial.weight, adversarial.adaptive),
        }
        self.peer = peers[which]()
        self.peer.take(generator, discriminator, lpips)
        for part in (self.peer.model, self.peer.loss):
            part.to(device)
        networks = (self.peer.model, self.peer.loss.discriminator)
        self.optimizers = [
            torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], 1e-4, BETAS[which])
            for network in networks
        ]
        self.weights = list(self.peer.model.parameters())
        self.ema = list(copy.deepcopy(self.peer.model).parameters()) if which == "llamagen" else []
        if compiled:
            functorch.donated_buffer = False  # they go back through a graph twice
            self.peer.model = torch.compile(self.peer.model)
        self.autocast = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
        self.x_BCHW = torch.rand(config.data.batch_size, model.in_channels, size, size, device=device) * 2 - 1

    def __call__(self) -> None:
        """One step of both networks."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            self.peer.step(self.x_BCHW)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(self.ema, self.weights, strict=False):
                mean.mul_(EMA).add_(weight, alpha=1 - EMA)
