"""Fully sharded data parallel training by torch's fully_shard: run.strategy=fsdp2.

accelerate's own FSDP (`--use_fsdp`) does not synchronise on CPUs and says nothing, so the model is sharded here, by the
same few lines on GPUs and CPUs. With run.precision=bf16 weights are gathered and layers computed in bfloat16; shards,
sums of gradients and the optimizer stay float32. Without `low` weights are gathered in float32, and autocast decides.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from launch.checkpoints.pieces import Piece
from launch.ranks.reduce import all_sum
from launch.run.runtime import Run
from launch.strategies.aside import MOMENTS, Aside, fill_moments, without
from launch.strategies.base import DEPRECATED, Strategy, blocks, plain


class Fsdp2(Strategy):
    """Every rank holds some rows of every weight; a layer's are gathered when it computes."""

    name = "fsdp2"
    everywhere = False
    in_step = True

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.AdamW],
        run: Run,
        *,
        aside: Sequence[str] = (),
        units: Sequence[nn.Module] | None = None,
        low: bool = True,
    ):
        self.run = run
        if aside:
            self.aside = Aside(model, aside, make_optimizer, run.device)
        warnings.filterwarnings("ignore", message=DEPRECATED, category=FutureWarning)
        mesh = init_device_mesh(run.device.type, (run.world_size,))
        half = torch.bfloat16 if low and run.config.precision == "bf16" else None
        settings: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
            ),
            "reshard_after_forward": os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false",
        }
        with without(model, aside):
            for block in blocks(model) if units is None else units:
                fully_shard(block, **settings)
            fully_shard(model, **settings)
            self._named = dict(model.named_parameters())
            self.adamw = make_optimizer(model)
        self.module = self.model = model
        for method in getattr(model, "forward_methods", ()):  # weights are gathered for these as for forward
            register_fsdp_forward_method(model, method)
        for module in model.modules():  # what isn't a parameter is whole on every rank
            for buffer in module.buffers(recurse=False):
                assert buffer.device.type == run.device.type
        fill_moments(self.adamw)

    def part(self, *, last: bool) -> AbstractContextManager:
        """Gradients are summed into shards with every part: keeping them whole would cost the memory that is saved."""
        return self.run.accelerator.autocast() if self.run.config.precision == "bf16" else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part of the batch."""
        loss.backward()

    def clip(self, clip: float, scale: Tensor | None = None) -> Tensor | None:
        """Divide the gradients by a loss scale and scale them down to the norm `clip` (0: not); their norm before."""
        own = [_local(weight.grad) for weight in self._named.values() if weight.grad is not None]
        if scale is not None:
            torch._foreach_div_(own, scale)
        zero = torch.zeros(1, device=self.run.device)
        square = all_sum(torch.stack([*torch._foreach_norm(own), zero[0]]).square().sum())
        if self.aside is not None:
            square = square + self.aside.average(scale)
        norm = square.sqrt()
        factor = (clip / (norm + 1e-6)).clamp(max=1.0) if clip else None
        if factor is not None and own:
            torch._foreach_mul_(own, factor)
        if factor is not None and self.aside is not None:
            self.aside.scale(factor)
        return norm

    def step(self, rate: float, good: Tensor | None) -> Tensor | None:
        """One step with the gradients there are, unless `good` is false."""
        assert good is not None
        self._set(rate)
        if good:  # distributed tensors take no step on a condition, so this waits for the device
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        if self.aside is not None:
            self.aside.step(rate, good)
        return None

    def weights(self) -> list[Piece]:
        """This rank's rows of each weight: neighbouring ones, so one stretch of the flattened weight."""
        return [self._piece(name, weight) for name, weight in self._named.items()]

    def trained(self) -> list[Piece]:
        """Those of `weights()` that the optimizer moves."""
        return [self._piece(name, weight) for name, weight in self._named.items() if weight.requires_grad]

    def _piece(self, name: str, weight: nn.Parameter) -> Piece:
        rows = -(-weight.shape[0] // self.run.world_size)
        first = min(self.run.rank * rows, weight.shape[0])
        start = first * (weight.numel() // weight.shape[0])
        return Piece(name, tuple(weight.shape), start, _local(weight))

    def moments(self, key: str) -> list[Tensor]:
        """AdamW's averages for the same rows."""
        assert key in MOMENTS
        return [_local(self.adamw.state[weight][key]) for weight in self._named.values() if weight.requires_grad]

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight gathered, one after the other."""
        for name, weight in self._named.items():
            yield name, plain(weight.detach())

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, the model's weights are whole, and stay so until its next forward has used them."""
        for part in self.model.modules():
            if isinstance(part, FSDPModule):
                part.unshard()
        yield


def _local(value: Any) -> Tensor:
    return value.detach().to_local().view(-1)
