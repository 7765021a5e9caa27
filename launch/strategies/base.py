"""What every way of sharing a model offers to a training; the plain one, DDP."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from launch.checkpoints.pieces import Piece, PieceState
from launch.command.cli import UserError
from launch.ranks.reduce import all_finite
from launch.run.runtime import Run
from launch.run.schedule import descend
from launch.strategies.aside import MOMENTS, Aside, fill_moments

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
"""All of them; docs/training.md compares them."""

DEPRECATED = r".*is deprecated\. Please use `torch\.distributed"
"""What torch 2.13 warns of at every step, of its own and DeepSpeed's calls."""


class Strategy:
    """A model in training on all ranks: `module(…)` is called for the loss. This one leaves all of it on every rank."""

    name = "ddp"
    everywhere = True
    """Whether every rank holds all weights and moments."""
    in_step = False
    """Whether the ranks must call the model equally often, in evaluation too, since they fetch weights together."""
    aside: Aside | None = None
    """Parts of the model that every rank keeps whole; DDP keeps all of it so."""

    def __init__(self, model: nn.Module, make_optimizer: Callable[[nn.Module], torch.optim.AdamW], run: Run):
        self.model = model.to(run.device)
        self.run = run
        self.adamw = make_optimizer(self.model)
        fill_moments(self.adamw)
        run.accelerator.ddp_handler = _DdpOptions()
        self.module = run.accelerator.prepare(self.model)

    def part(self, *, last: bool) -> AbstractContextManager:
        """Around forward and backward of one part of a batch: gradients are exchanged with the last part only."""
        return nullcontext() if last else self.run.accelerator.no_sync(self.module)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part of the batch; the parts' losses sum up to the rank's loss."""
        self.run.accelerator.backward(loss)

    def descend(self, rate: float, clip: float, losses: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor | None]:
        """One step with the gradients there are, scaled down to the norm `clip` (0: not); their norm before.

        Where it or one of `losses` isn't finite on any rank, there is no step. Also whether there was one; None where
        the strategy can't leave it out.
        """
        before = self.clip(clip)
        good = None if before is None else all_finite([before, *losses])
        after = self.step(rate, good)
        norm = after if before is None else before
        assert norm is not None
        return norm, good

    def clip(self, clip: float, scale: Tensor | None = None) -> Tensor | None:
        """Divide the gradients by a loss scale and scale them down to the norm `clip` (0: not); their norm before.

        None where only `step` finds it.
        """
        assert scale is None
        return self.run.accelerator.clip_grad_norm_(self.module.parameters(), clip or math.inf)

    def step(self, rate: float, good: Tensor | None) -> Tensor | None:
        """One step with the gradients there are, unless `good` is false; their norm where `clip` can't give it."""
        assert good is not None
        descend(self.adamw, rate, good)
        return None

    def _set(self, rate: float) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = rate

    def weights(self) -> list[Piece]:
        """What this rank holds of the weights, float32."""
        return [
            Piece(name, tuple(weight.shape), 0, weight.detach().view(-1))
            for name, weight in self.model.named_parameters()
        ]

    def trained(self) -> list[Piece]:
        """Those of `weights()` that the optimizer moves."""
        kept = [weight.requires_grad for weight in self.model.parameters()]
        return [piece for piece, trained in zip(self.weights(), kept, strict=True) if trained]

    def moments(self, key: str) -> list[Tensor]:
        """AdamW's averages, a tensor for each of `trained()`."""
        return [self.adamw.state[weight][key].view(-1) for weight in self.model.parameters() if weight.requires_grad]

    def refresh(self) -> None:
        """Make the ranks compute with what was written into `weights()`."""

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter as it computes, whole, one after the other; all ranks must ask."""
        for name, weight in self.model.named_parameters():
            yield name, weight.detach()

    def gathered(self) -> AbstractContextManager[Any]:
        """Inside, the weights are whole, to be read outside of a forward; all ranks must ask."""
        return nullcontext()

    def state(self, named: str) -> dict[str, PieceState]:
        """What a checkpoint keeps: the weights under the given name, and the optimizer."""
        return {
            named: PieceState(self.weights, everywhere=self.everywhere, loaded=self.refresh),
            "optimizer": PieceState(self.optimizer_pieces, everywhere=self.everywhere, loaded=self.same_steps),
        }

    def _steps(self) -> list[Tensor]:
        own = self.aside.adamw if self.aside else None
        return [state["step"] for adamw in (self.adamw, own) if adamw for state in adamw.state.values()]

    def optimizer_pieces(self) -> list[Piece]:
        """The optimizer's state; `same_steps` must be called after something was written into it."""
        weights = self.trained()
        found = [Piece("steps", (1,), 0, self._steps()[0].view(1))] if self._steps() else []
        for key in MOMENTS:
            moments = self.moments(key)
            found += [weight.of(moment, f"{key}/") for weight, moment in zip(weights, moments, strict=True)]
            found += self.aside.moments(key) if self.aside else []
        return found

    def same_steps(self) -> None:
        """Give every weight the number of steps of the first."""
        for step in self._steps()[1:]:
            step.copy_(self._steps()[0])


def ddp_options() -> dict[str, Any]:
    """How DDP wraps a model: gradients lie in its buckets, and buffers stay each rank's own.

    Else it would keep every gradient twice, and broadcast rank 0's buffers before each forward.
    """
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return {"gradient_as_bucket_view": True, sync: False}


class _DdpOptions(DistributedDataParallelKwargs):
    """`ddp_options` for accelerate, which doesn't know newer ones by name."""

    def to_kwargs(self) -> dict[str, Any]:
        return ddp_options()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a model: what its outermost nn.ModuleLists hold."""
    found: list[nn.Module] = []
    for child in model.children():
        found += child if isinstance(child, nn.ModuleList) else blocks(child)
    return found


def refused(what: str, strategy: str, way_out: str) -> UserError:
    """The error for a setting that a strategy doesn't support."""
    return UserError(f"{what} is not supported with run.strategy={strategy}: {way_out}")


def plain(value: Any) -> Any:
    """A distributed tensor whole, anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
