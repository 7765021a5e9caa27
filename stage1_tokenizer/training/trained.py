"""All that a run of stage one trains: networks, their optimizers, averages, and what computes the gradients."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from launch.checkpoints.pieces import PieceState
from launch.checkpoints.store import Stateful
from launch.config import OptimizerConfig
from launch.run.ema import Ema
from launch.run.runtime import Run
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.layers.recompute import recompute_activations
from stage1_tokenizer.losses.semantic import SemanticTerm
from stage1_tokenizer.losses.term import Term
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.projector import attach
from stage1_tokenizer.training.adversary import Adversary
from stage1_tokenizer.training.balance import Balance
from stage1_tokenizer.training.compiling import compile_networks
from stage1_tokenizer.training.learner import Learner, discriminator_settings
from stage1_tokenizer.training.loss_scale import LossScale
from stage1_tokenizer.training.shared import SharedLearner, SharedTokenizerEma, how_to_share, sharing
from stage1_tokenizer.training.step import OneForwardStep


class TokenizerEma(Ema):
    """A frozen copy of a tokenizer whose weights, and a codebook learned by moving averages, follow the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, decay: float):
        self.tokenizer: Tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.eval().requires_grad_(False)
        super().__init__(decay, lambda: _tensors(self.tokenizer), lambda: _tensors(tokenizer))

    @contextlib.contextmanager
    def whole(self) -> Iterator[Tokenizer]:
        """The tokenizer with the averaged weights."""
        yield self.tokenizer

    @property
    def state(self) -> Self:
        """What a checkpoint keeps."""
        return self

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with these weights."""
        self.tokenizer.load_state_dict(weights)

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
    ema: TokenizerEma | SharedTokenizerEma
    gradients: OneForwardStep
    """Leaves the gradients of a batch in all networks."""

    @property
    def state(self) -> dict[str, Stateful | PieceState]:
        """Everything stateful, by the name of its file in a checkpoint; codes' statistics are the tokenizer's."""
        state = {"ema": self.ema.state, **self.generator.state("tokenizer")}
        for adversary, learner in zip(self.gradients.adversaries, self.discriminators, strict=True):
            state |= learner.state(f"discriminator{adversary.suffix}")
            if adversary.config.lecam:
                state[f"lecam{adversary.suffix}"] = adversary.lecam
        if self.gradients.scale is not None:
            state["loss_scale"] = self.gradients.scale
        if self.gradients.balance is not None:
            state["balance"] = self.gradients.balance
        return state


def build(config: TokenizerTrainConfig, terms: Sequence[Term], run: Run) -> Trained:
    """Networks, optimizers and averages on the run's device, the same on every rank."""
    tokenizer = Tokenizer(config.model, config.data.transform)
    semantic = next((term for term in terms if isinstance(term, SemanticTerm)), None)
    if semantic is not None:
        sides, step = config.data.transform.sizes, config.model.stride
        inside = [side // one for side, one in zip(sides, step, strict=True)]  # patches, with latent tokens too
        semantic.check(sides, inside if semantic.config.at == "decoder" else tokenizer.grid(sides))
        attach(tokenizer, semantic.config, semantic.teacher.width)
    freeze(tokenizer, config.freeze)
    if config.activation_checkpointing:
        recompute_activations(tokenizer)
    adversaries = [
        Adversary(adversarial, suffix, config.run.seed) for suffix, adversarial in config.loss.adversaries.items()
    ]
    networks = [_discriminator(adversary, config) for adversary in adversaries]
    sizes = [sum(weight.numel() for weight in network.parameters()) / 1e6 for network in (tokenizer, *networks)]
    generator = _learner(tokenizer, config.optimizer, config, run)
    discriminators = [
        _learner(network, discriminator_settings(config.optimizer, adversary.config.optimizer), config, run)
        for adversary, network in zip(adversaries, networks, strict=True)
    ]
    if config.run.kernels == "auto":
        for module in (tokenizer, *networks, *terms):
            install(module, run.device)
    gradients = OneForwardStep(
        [term.to(run.device) for term in terms if term is not semantic],
        adversaries,
        semantic=None if semantic is None else semantic.to(run.device),
        quantizer_weight=config.loss.quantizer_weight,
        autocast=run.autocast,
        **how_to_share([generator, *discriminators], run),
        micro_batch=config.data.micro_batch,
        scale=LossScale(run.device) if config.run.precision == "fp16" else None,
        balance=_balance(config, terms, run),
    )
    for line in filter(None, [term.settle(run.device, config.run.precision) for term in terms]):
        run.say(line)
    ema: TokenizerEma | SharedTokenizerEma
    if isinstance(generator, SharedLearner):
        ema = SharedTokenizerEma(generator, config.optimizer.ema_decay)
    else:
        ema = TokenizerEma(tokenizer, config.optimizer.ema_decay)
    if config.compile:
        blocks, in_parts = sharing(run) and run.strategy == "fsdp2", config.data.micro_batch is not None
        compile_networks(tokenizer, networks, terms, blocks=blocks, in_parts=in_parts)
    run.say(f"tokenizer: {sizes[0]:.2f} M parameters, discriminator: {sum(sizes[1:]):.2f} M")
    return Trained(tokenizer, generator, discriminators, ema, gradients)


def _balance(config: TokenizerTrainConfig, terms: Sequence[Term], run: Run) -> Balance | None:
    if config.loss.balance == "none":
        return None
    names = [term.name for term in terms]
    for suffix in config.loss.adversaries:
        names += [f"adversarial{suffix}", f"feature_matching{suffix}"]
    return Balance(names, config.loss.balance_decay, run.device)


def _discriminator(adversary: Adversary, config: TokenizerTrainConfig) -> nn.Module:
    return build_discriminator(adversary.config, config.model.in_channels, config.model.spatial_dims)


def _learner(network: nn.Module, settings: OptimizerConfig, config: TokenizerTrainConfig, run: Run) -> Learner:
    if sharing(run):
        return SharedLearner(network, settings, run)
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
