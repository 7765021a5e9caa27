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

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
"""All of them; docs/training.md compares them."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's two averages of each weight's gradient."""

DEPRECATED = r".*is deprecated\. Please use `torch\.distributed"
"""What torch 2.13 warns of at every step, of its own and DeepSpeed's calls."""


class Strategy:
    """A model in training on all ranks: `module(…)` is called for the loss. This one leaves all of it on every rank."""

    name = "ddp"
    everywhere = True
    """Whether every rank holds all weights and moments."""
    in_step = False
    """Whether the ranks must call the model equally often, in evaluation too, since they fetch weights together."""

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
        norm = self.run.accelerator.clip_grad_norm_(self.module.parameters(), clip or math.inf)
        good = all_finite([norm, *losses])
        descend(self.adamw, rate, good)
        return norm, good

    def _set(self, rate: float) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = rate

    def weights(self) -> list[Piece]:
        """What this rank holds of the weights that the optimizer moves, float32."""
        return [
            Piece(name, tuple(weight.shape), 0, weight.detach().view(-1))
            for name, weight in self.model.named_parameters()
        ]

    def moments(self, key: str) -> list[Tensor]:
        """AdamW's averages, a tensor for each of `weights()`."""
        return [self.adamw.state[weight][key].view(-1) for weight in self.model.parameters()]

    def refresh(self) -> None:
        """Make the ranks compute with what was written into `weights()`."""

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter as it computes, whole, one after the other; all ranks must ask."""
        for name, weight in self.model.named_parameters():
            yield name, weight.detach()

    def state(self, named: str) -> dict[str, PieceState]:
        """What a checkpoint keeps: the weights under the given name, and the optimizer."""
        return {
            named: PieceState(self.weights, everywhere=self.everywhere, loaded=self.refresh),
            "optimizer": PieceState(self._optimizer_pieces, everywhere=self.everywhere, loaded=self._same_steps),
        }

    def _steps(self) -> list[Tensor]:
        return [state["step"] for state in self.adamw.state.values()]

    def _optimizer_pieces(self) -> list[Piece]:
        weights = self.weights()
        found = [Piece("steps", (1,), 0, self._steps()[0].view(1))] if self._steps() else []
        for key in MOMENTS:
            moments = self.moments(key)
            found += [weight.of(moment, f"{key}/") for weight, moment in zip(weights, moments, strict=True)]
        return found

    def _same_steps(self) -> None:
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


def fill_moments(optimizer: torch.optim.AdamW) -> None:
    """Give every weight the state that AdamW's first step would: checkpoints can then be read into it at once."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            where = weight.device if group["fused"] else "cpu"
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=where),
                **{key: torch.zeros_like(weight, memory_format=torch.preserve_format) for key in MOMENTS},
            }


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
