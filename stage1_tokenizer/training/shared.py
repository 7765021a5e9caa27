"""Networks whose weights the ranks share: run.strategy=fsdp2, zero1, zero2 or zero3.

The quantizer stays whole on every rank: it writes into its codebook in the forward, and is small. So do buffers.
Evaluations gather the averaged weights into a whole tokenizer on each rank, which needs 4 bytes a parameter meanwhile.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from launch.checkpoints.pieces import Piece, PieceState, Whole
from launch.checkpoints.store import Stateful
from launch.config import OptimizerConfig
from launch.ranks.start import strategy as requested
from launch.run.runtime import Run
from launch.strategies.averages import SharedEma
from launch.strategies.base import refused
from launch.strategies.choose import share_out
from stage1_tokenizer.config.training import TokenizerTrainConfig
from stage1_tokenizer.discriminators.weight_norms import SpectralNorm, advance
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.layers.recompute import Recomputable
from stage1_tokenizer.tokenizer.codec import Reconstruction
from stage1_tokenizer.tokenizer.model import Tokenizer
from stage1_tokenizer.tokenizer.projector import Projector, attach
from stage1_tokenizer.training.learner import Learner, build_optimizer, named_moments
from stage1_tokenizer.training.step import unwrapped

EXTRA = "_extra_state"
"""The end of the names of counters of steps."""

pytree.register_pytree_node(  # so that FSDP finds the tensors whose gradients begin the backward pass
    Reconstruction,
    lambda made: ([made.x_BCHW, made.features_BCHW, made.codes_Bhw, made.losses, made.aligned_BNE], None),
    lambda parts, _: Reconstruction(*parts),
)


def sharing(run: Run) -> bool:
    """Whether the ranks of a run hold parts of the networks only."""
    return run.strategy != "ddp" and run.world_size > 1


def check_strategy(config: TokenizerTrainConfig) -> None:
    """Raise UserError for settings that the requested strategy doesn't support."""
    name = requested(config.run)
    if name == "ddp" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    gathers = name in ("fsdp2", "zero3")
    spectral = any(one.spectral_norm for one in config.loss.adversaries.values())
    penalty = any(one.penalty or one.penalty_fake for one in config.loss.adversaries.values())
    adaptive = config.loss.semantic.adaptive and bool(config.loss.semantic.weight)
    recomputes = config.activation_checkpointing or config.data.micro_batch is not None
    for wrong, what, way_out in (
        (config.run.precision == "fp16" and name != "fsdp2", "run.precision=fp16", "use bf16 or fp32, or fsdp2"),
        (config.channels_last and torch.cuda.is_available(), "channels_last=true", "remove it, or use ddp"),
        (config.compile and name == "zero3", "compile=true", "remove it, or use fsdp2 or zero2"),
        (penalty and gathers, "a gradient penalty (loss.adversarial.penalty)", "set it to 0, or use zero2 or ddp"),
        (spectral and name == "zero3", "loss.adversarial.spectral_norm=true", "remove it, or use fsdp2 or zero2"),
        (adaptive, "loss.semantic.adaptive=true", "set it to false, or use ddp"),
        (recomputes and name == "zero3", "activation_checkpointing or data.micro_batch", "use fsdp2 or zero2"),
        ({"encoder", "decoder"} <= set(config.freeze), "freeze=[encoder, decoder]", "use ddp, nothing is to share"),
    ):
        if wrong:
            raise refused(what, name, way_out)


def how_to_share(learners: Sequence[Learner], run: Run) -> dict[str, Any]:
    """The step's `backward` and `advance` for these networks; nothing where every rank has them whole."""
    if not sharing(run):
        return {"backward": lambda loss, network: run.accelerator.backward(loss)}
    of = {id(learner.module): learner for learner in learners if isinstance(learner, SharedLearner)}

    def advance_whole(network: nn.Module) -> None:
        if any(isinstance(part, SpectralNorm) for part in network.modules()):
            with of[id(network)].gathered():
                advance(unwrapped(network))

    return {"backward": lambda loss, network: of[id(network)].backward(loss), "advance": advance_whole}


class SharedLearner(Learner):
    """A network that a strategy shares out, with its optimizer."""

    def __init__(self, raw: nn.Module, settings: OptimizerConfig, run: Run):
        raw.to(run.device).train()
        aside = ["quantizer"] if isinstance(raw, Tokenizer) else []
        weights = {name: tuple(weight.shape) for name, weight in raw.named_parameters()}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in raw.state_dict().items()}
        whole = tuple(f"{name}." for name in aside)
        self._buffers = [name for name in self._shapes if name not in weights and not name.startswith(whole or ("\0",))]
        self._trained = {name: weights[name] for name, one in raw.named_parameters() if one.requires_grad}
        self.strategy = share_out(
            raw,
            partial(build_optimizer, config=settings),
            run,
            clip=settings.clip,
            aside=aside,
            units=[part for part in raw.modules() if isinstance(part, Recomputable)],
            low=False,
        )
        # Penalties take gradients of a discriminator's logits, which an engine would take for its backward pass.
        plain = run.strategy in ("zero1", "zero2") and not aside
        super().__init__(raw, raw if plain else self.strategy.module, self.strategy.adamw, settings)
        raw.train()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """As a Learner's."""
        return self._shapes

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of this network's loss."""
        self.strategy.backward(loss)

    def clip(self, scale: Tensor | None = None) -> Tensor | None:
        """As a Learner's; None where only the step finds the norm."""
        return self.strategy.clip(self.settings.clip, scale)

    def descend(self, share: float | Tensor, good: Tensor) -> Tensor | None:
        """As a Learner's; DeepSpeed decides for itself whether there is a step, and then gives the norm."""
        assert isinstance(share, float), "CUDA graphs are for one GPU"
        return self.strategy.step(share * self.settings.learning_rate, good)

    def gathered(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, all ranks can read the weights."""
        return self.strategy.gathered()

    def pieces(self) -> list[Piece]:
        """What a checkpoint keeps of the network, under the names of its state_dict."""
        return self.strategy.weights() + self.whole_pieces()

    def whole_pieces(self) -> list[Piece]:
        """What every rank has: the quantizer and the buffers."""
        aside = self.strategy.aside
        found = aside.pieces() if aside else []
        for name in self._buffers:
            buffer = self.raw.get_buffer(name)
            found.append(Piece(name, tuple(buffer.shape), 0, buffer.view(-1), everywhere=True))
        return found

    def loaded(self) -> None:
        """Take over what was written into `pieces`."""
        if self.strategy.aside is not None:
            self.strategy.aside.loaded()
        self.strategy.refresh()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with the weights of a whole network, without statistics of its training."""
        own = [Piece(name, self._shapes[name], 0, self.raw.get_buffer(name).view(-1)) for name in self._buffers]
        PieceState(lambda: self.strategy.weights() + own, everywhere=False).load(Whole(weights, "the tokenizer"))
        if self.strategy.aside is not None:
            self.strategy.aside.load(weights)
        self.strategy.refresh()

    def state(self, name: str) -> dict[str, Stateful | PieceState]:
        """The parts of a checkpoint."""
        moments = partial(named_moments, shapes=self._trained)
        return {
            name: PieceState(self.pieces, everywhere=False, loaded=self.loaded, plain=lambda state: state),
            f"{name}_optimizer": PieceState(
                self.strategy.optimizer_pieces, everywhere=False, loaded=self.strategy.same_steps, plain=moments
            ),
        }


class SharedTokenizerEma(SharedEma):
    """Averages of the weights that each rank holds, and of what every rank has."""

    def __init__(self, learner: SharedLearner, decay: float):
        self._learner = learner
        began = {one.name: one.values.clone() for one in learner.whole_pieces() if one.name.endswith(EXTRA)}

        def averaged() -> list[Piece]:  # counters stay as they were
            return [one.of(began[one.name]) if one.name in began else one for one in learner.pieces()]

        super().__init__(learner.strategy, decay, averaged)

    @contextlib.contextmanager
    def whole(self) -> Iterator[Tokenizer]:
        """A tokenizer with the averaged weights on every rank; all ranks together."""
        raw = self._learner.raw
        assert isinstance(raw, Tokenizer)
        with torch.device("meta"):
            tokenizer = Tokenizer(raw.config, raw.transform)
            if isinstance(raw.projector, Projector):
                attach(tokenizer, raw.projector.config, raw.projector.outputs)
        tokenizer.to_empty(device=self._learner.strategy.run.device)
        with self.applied(), torch.no_grad():
            targets = dict(tokenizer.named_parameters())
            for name, weight in self._learner.strategy.whole_weights():
                targets[name].copy_(weight)
            for name, child in (self._learner.strategy.aside.children if self._learner.strategy.aside else {}).items():
                tokenizer.get_submodule(name).load_state_dict(child.state_dict())
            for name, buffer in raw.named_buffers():
                tokenizer.get_buffer(name).copy_(buffer)
        install(tokenizer, self._learner.strategy.run.device)
        yield tokenizer.eval().requires_grad_(False)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with the weights that the network now has."""
        for piece, mean in zip(self._averaged(), self._means, strict=True):
            mean.copy_(piece.values)
