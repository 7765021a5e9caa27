"""The three tokenizers in training, behind one face. Legend: B batch, C channels, H W pixels, h w latent grid."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from data.pictures.config import TransformConfig
from launch.checkpoints import store as checkpoint
from launch.run.runtime import Run
from launch.run.seeding import seed_step
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.layers.precision import computes_in_bf16
from stage1_tokenizer.losses.lpips import load_lpips
from stage1_tokenizer.media.pictures import PICTURES
from stage1_tokenizer.training.loop import train_step
from stage1_tokenizer.training.trained import build
from tests.benchmarks.peer_steps import LlamaGen, Peer, Taming, give_lpips
from tests.benchmarks.race.settings import TAMING, Race

LAYERS = 2
"""Strided layers of the peers' discriminators, 3 where published: a patch would be larger than a small picture."""


class Codec(Protocol):
    """What the evaluator needs of a tokenizer."""

    codebook_size: int
    codebooks: int
    transform: TransformConfig | None

    def reconstruct(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions and codes, idx_Bhw."""
        ...


class Ours:
    """stage1_tokenizer, with its own step, averages and checkpoint."""

    def __init__(self, config: TokenizerTrainConfig, run: Run):
        self.config, self.trained = config, build(config, PICTURES.terms(config.loss), run)
        self.state: Mapping[str, Any] = self.trained.state

    def step(self, x_BCHW: Tensor, number: int, done: float) -> None:
        seed_step(self.config.run.seed, 0, number)
        train_step(self.config, self.trained, x_BCHW, number)

    def codec(self) -> Codec:
        with self.trained.ema.whole() as tokenizer:
            return tokenizer  # type: ignore[return-value]


class Theirs:
    """A peer, with Adam as its own training has it."""

    def __init__(self, race: Race, name: str, config: TokenizerTrainConfig):
        model, self.start = config.model, race.start
        torch.manual_seed(config.run.seed)
        peer: Peer
        if name == TAMING:
            peer = Taming(Path(race.peer, "taming-transformers"), model, config.data.transform.size, 0.8, LAYERS)
            betas, self.clip = (0.5, 0.9), 0.0
        else:
            peer = LlamaGen(Path(race.peer, "LlamaGen"), model, 0.5, False, LAYERS, "l2")
            betas, self.clip = (0.9, 0.95), 1.0
        self.device = torch.device(race.device)
        self.bf16 = name != TAMING and computes_in_bf16(self.device)
        give_lpips(peer.loss.perceptual_loss, load_lpips())
        self.peer, self.config = peer, config
        self.parts = [peer.model.to(race.device), peer.loss.to(race.device).discriminator]
        self.optimizers = [torch.optim.Adam(part.parameters(), lr=race.rate, betas=betas) for part in self.parts]
        self.state: Mapping[str, Any] = {
            "model": self.parts[0], "discriminator": self.parts[1],
            "optimizer": self.optimizers[0], "optimizer_disc": self.optimizers[1],
        }  # fmt: skip

    def step(self, x_BCHW: Tensor, number: int, done: float) -> None:
        self.peer.loss.discriminator_iter_start = 0 if done >= self.start else sys.maxsize
        losses = self.peer.losses(x_BCHW, number + 1)
        while (found := self._next(losses)) is not None:
            turn, loss = found
            self.optimizers[turn].zero_grad()
            loss.backward()
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self.parts[turn].parameters(), self.clip)
            self.optimizers[turn].step()

    def _next(self, losses: Iterator[tuple[int, Tensor]]) -> tuple[int, Tensor] | None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return next(losses, None)

    def codec(self) -> PeersCodec:
        return PeersCodec(self.peer.model, self.config)


def trained(race: Race, name: str) -> PeersCodec:
    """A peer's tokenizer at its newest checkpoint."""
    theirs = Theirs(race, name, race.config())
    if checkpoint.load_latest(race.folder / name, theirs.state) is None:
        raise FileNotFoundError(f"no checkpoint in {race.folder / name}")
    return theirs.codec()


class PeersCodec:
    """A peer's networks as the evaluator and the priors use them."""

    codebooks = 1

    def __init__(self, model: Any, config: TokenizerTrainConfig):
        self.model, self.transform = model, config.data.transform
        self.codebook_size = config.model.quantizer.codebook_size

    def reconstruct(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        idx_Bhw = self.encode(x_BCHW)
        return self.decode(idx_Bhw), idx_Bhw

    def encode(self, x_BCHW: Tensor) -> Tensor:
        self.model.eval()
        latents = self.model.quant_conv(self.model.encoder(x_BCHW))
        idx_N = self.model.quantize(latents)[2][2]
        self.model.train()
        return idx_N.view(len(x_BCHW), *latents.shape[2:])

    def decode(self, idx_Bhw: Tensor) -> Tensor:
        self.model.eval()
        z_BhwD = self.model.quantize.get_codebook_entry(idx_Bhw.flatten(), None).unflatten(0, idx_Bhw.shape)
        x_BCHW = self.model.decoder(self.model.post_quant_conv(z_BhwD.movedim(-1, 1).contiguous()))
        self.model.train()
        return x_BCHW
