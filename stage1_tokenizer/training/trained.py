"""All that a run of stage one trains: networks, their optimizers, averages, and what computes the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.losses.lpips import LPIPS
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training.ema import Ema
from stage1_tokenizer.training.learner import Learner
from stage1_tokenizer.training.loss_scale import LossScale
from stage1_tokenizer.training.step import OneForwardStep

if TYPE_CHECKING:
    from launch.checkpoints.store import Stateful
    from launch.run.runtime import Run


@dataclass
class Parts:
    """All that a run trains, and what computes its gradients."""

    tokenizer: Tokenizer
    """The tokenizer itself."""
    generator: Learner
    """The tokenizer, with its optimizer."""
    discriminator: Learner | None
    """The discriminator, with its optimizer; None where the adversarial term has no weight."""
    ema: Ema
    """The averaged weights."""
    gradients: OneForwardStep
    """Leaves the gradients of a batch in both."""

    @property
    def state(self) -> dict[str, Stateful]:
        """Everything stateful, by the name of its file in a checkpoint; codes' statistics are the tokenizer's."""
        found: dict[str, Stateful] = {
            "tokenizer": self.tokenizer,
            "ema": self.ema,
            "tokenizer_optimizer": self.generator.optimizer,
        }
        if self.discriminator is not None:
            found["discriminator"] = self.discriminator.raw
            found["discriminator_optimizer"] = self.discriminator.optimizer
        if self.gradients.config.adversarial.lecam:
            found["lecam"] = self.gradients.lecam
        if self.gradients.scale is not None:
            found["loss_scale"] = self.gradients.scale
        return found


def build(config: TokenizerTrainConfig, perceptual: LPIPS | None, this: Run) -> Parts:
    """Networks, optimizers and averages on the run's device, the same on every rank."""
    model, adversarial, optimizer = config.model, config.loss.adversarial, config.optimizer
    tokenizer = Tokenizer(model, config.data.transform)
    freeze(tokenizer, config.freeze)
    if config.activation_checkpointing:
        recompute_activations(tokenizer)
    generator = Learner.build(tokenizer, optimizer, optimizer.learning_rate, this)
    judge = None
    if adversarial.weight:
        network = build_discriminator(adversarial, model.in_channels, model.spatial_dims)
        peak = optimizer.discriminator_learning_rate or optimizer.learning_rate
        judge = Learner.build(network, optimizer, peak, this)
    if config.run.kernels == "auto":
        for module in (tokenizer, judge.raw if judge else None, perceptual):
            install(module, this.device)
    gradients = OneForwardStep(
        config.loss,
        perceptual.to(this.device) if perceptual is not None else None,
        autocast=this.autocast,
        backward=this.accelerator.backward,
        micro_batch=config.data.micro_batch,
        scale=LossScale(this.device) if config.run.precision == "fp16" else None,
    )
    ema = Ema(tokenizer, optimizer.ema_decay)
    networks = [tokenizer, *([judge.raw] if judge else [])]
    if config.channels_last and this.device.type == "cuda":
        for network in networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.compile:
        compile_networks(tokenizer, judge.raw if judge else None)
    weights = sum(parameter.numel() for parameter in tokenizer.parameters())
    judging = sum(parameter.numel() for parameter in judge.raw.parameters()) if judge else 0
    this.say(f"tokenizer: {weights / 1e6:.2f} M parameters, discriminator: {judging / 1e6:.2f} M")
    return Parts(tokenizer, generator, judge, ema, gradients)


def freeze(tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Keep parts of a tokenizer out of training: their weights, and by evaluation mode their statistics."""
    beside = {"encoder": [tokenizer.quant_conv], "decoder": [tokenizer.post_quant_conv]}
    for name in names:
        for module in (getattr(tokenizer, name), *beside.get(name, [])):
            module.requires_grad_(False)
    tokenizer.frozen = tuple(names)


def compile_networks(tokenizer: Tokenizer, discriminator: nn.Module | None, backend: str = "inductor") -> None:
    """Let torch.compile have what is costly: encoder, decoder, discriminator. Quantizers count in Python."""
    import torch._functorch.config as functorch

    functorch.donated_buffer = False  # the step goes back through the discriminator twice
    tokenizer.encoder.compile(backend=backend)
    tokenizer.decoder.features = torch.compile(tokenizer.decoder.features, backend=backend)  # type: ignore[method-assign]
    if discriminator is not None:
        discriminator.compile(backend=backend)
