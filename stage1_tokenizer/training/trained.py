"""All that a run of stage one trains: networks, their optimizers, averages, and what computes the gradients."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from launch.checkpoints.store import Stateful
from launch.run.ema import Ema
from launch.run.runtime import Run
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.losses.term import Term
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.training.adversary import Adversary
from stage1_tokenizer.training.compiling import compile_networks
from stage1_tokenizer.training.learner import Learner, discriminator_settings
from stage1_tokenizer.training.loss_scale import LossScale
from stage1_tokenizer.training.step import OneForwardStep


class TokenizerEma(Ema):
    """A frozen copy of a tokenizer whose weights, and a codebook learned by moving averages, follow the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, decay: float):
        self.tokenizer: Tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.eval().requires_grad_(False)
        super().__init__(decay, lambda: _tensors(self.tokenizer), lambda: _tensors(tokenizer))

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.tokenizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load averaged weights."""
        self.tokenizer.load_state_dict(state)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


@dataclass
class Trained:
    """All that a run trains, and what computes its gradients."""

    tokenizer: Tokenizer
    generator: Learner
    """The tokenizer, with its optimizer."""
    discriminators: list[Learner]
    """The discriminators, each with its optimizer, in the order of `gradients.adversaries`."""
    ema: TokenizerEma
    gradients: OneForwardStep
    """Leaves the gradients of a batch in all networks."""

    @property
    def state(self) -> dict[str, Stateful]:
        """Everything stateful, by the name of its file in a checkpoint; codes' statistics are the tokenizer's."""
        state: dict[str, Stateful] = {
            "tokenizer": self.tokenizer,
            "ema": self.ema,
            "tokenizer_optimizer": self.generator.optimizer,
        }
        for adversary, learner in zip(self.gradients.adversaries, self.discriminators, strict=True):
            name = f"discriminator{adversary.suffix}"
            state |= {name: learner.raw, f"{name}_optimizer": learner.optimizer}
            if adversary.config.lecam:
                state[f"lecam{adversary.suffix}"] = adversary.lecam
        if self.gradients.scale is not None:
            state["loss_scale"] = self.gradients.scale
        return state


def build(config: TokenizerTrainConfig, terms: Sequence[Term], run: Run) -> Trained:
    """Networks, optimizers and averages on the run's device, the same on every rank."""
    tokenizer = Tokenizer(config.model, config.data.transform)
    freeze(tokenizer, config.freeze)
    if config.activation_checkpointing:
        recompute_activations(tokenizer)
    generator = Learner.build(tokenizer, config.optimizer, run, channels_last=_channels_last(config, run))
    adversaries = [Adversary(adversarial, suffix) for suffix, adversarial in config.loss.adversaries.items()]
    discriminators = [_discriminator(adversary, config, run) for adversary in adversaries]
    if config.run.kernels == "auto":
        for module in (tokenizer, *(learner.raw for learner in discriminators), *terms):
            install(module, run.device)
    gradients = OneForwardStep(
        [term.to(run.device) for term in terms],
        adversaries,
        quantizer_weight=config.loss.quantizer_weight,
        autocast=run.autocast,
        backward=run.accelerator.backward,
        micro_batch=config.data.micro_batch,
        scale=LossScale(run.device) if config.run.precision == "fp16" else None,
    )
    for line in filter(None, [term.settle(run.device, config.run.precision) for term in terms]):
        run.say(line)
    ema = TokenizerEma(tokenizer, config.optimizer.ema_decay)
    networks = [learner.raw for learner in discriminators]
    if config.compile:
        compile_networks(tokenizer, networks, terms, in_parts=config.data.micro_batch is not None)
    sizes = [sum(weight.numel() for weight in network.parameters()) / 1e6 for network in (tokenizer, *networks)]
    run.say(f"tokenizer: {sizes[0]:.2f} M parameters, discriminator: {sum(sizes[1:]):.2f} M")
    return Trained(tokenizer, generator, discriminators, ema, gradients)


def _discriminator(adversary: Adversary, config: TokenizerTrainConfig, run: Run) -> Learner:
    network = build_discriminator(adversary.config, config.model.in_channels, config.model.spatial_dims)
    settings = discriminator_settings(config.optimizer, adversary.config.optimizer)
    return Learner.build(network, settings, run, channels_last=_channels_last(config, run))


def _channels_last(config: TokenizerTrainConfig, run: Run) -> bool:
    return config.channels_last and run.device.type == "cuda"


def freeze(tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Keep parts of a tokenizer out of training: their weights, and by evaluation mode their statistics."""
    beside = {"encoder": [tokenizer.quant_conv], "decoder": [tokenizer.post_quant_conv]}
    for name in names:
        for module in (getattr(tokenizer, name), *beside.get(name, [])):
            module.requires_grad_(False)
    tokenizer.frozen = tuple(names)
