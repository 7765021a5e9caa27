"""Fully sharded data parallel training by torch's fully_shard: run.strategy=fsdp2.

accelerate's own FSDP (`--use_fsdp`) does not synchronise on CPUs and says nothing, so the model is sharded here, by the
same few lines on GPUs and CPUs. With run.precision=bf16 weights are gathered and layers computed in bfloat16; shards,
sums of gradients and the optimizer stay float32.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from launch.checkpoints.pieces import Piece
from launch.ranks.reduce import all_finite
from launch.run.runtime import Run
from launch.strategies.base import DEPRECATED, MOMENTS, Strategy, blocks, fill_moments, plain


class Fsdp2(Strategy):
    """Every rank holds some rows of every weight; a layer's are gathered when it computes."""

    name = "fsdp2"
    everywhere = False
    in_step = True

    def __init__(self, model: nn.Module, make_optimizer: Callable[[nn.Module], torch.optim.AdamW], run: Run):
        self.run = run
        warnings.filterwarnings("ignore", message=DEPRECATED, category=FutureWarning)
        mesh = init_device_mesh(run.device.type, (run.world_size,))
        low = torch.bfloat16 if run.config.precision == "bf16" else None
        settings: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=low, reduce_dtype=torch.float32 if low else None, cast_forward_inputs=False
            ),
            "reshard_after_forward": os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false",
        }
        for block in blocks(model):
            fully_shard(block, **settings)
        fully_shard(model, **settings)
        self.module = self.model = model
        for method in getattr(model, "forward_methods", ()):  # weights are gathered for these as for forward
            register_fsdp_forward_method(model, method)
        for module in model.modules():  # what isn't a parameter is whole on every rank
            for buffer in module.buffers(recurse=False):
                assert buffer.device.type == run.device.type
        self.adamw = make_optimizer(model)
        fill_moments(self.adamw)

    def part(self, *, last: bool) -> AbstractContextManager:
        """Gradients are summed into shards with every part: keeping them whole would cost the memory that is saved."""
        return self.run.accelerator.autocast() if self.run.config.precision == "bf16" else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part of the batch."""
        loss.backward()

    def descend(self, rate: float, clip: float, losses: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor | None]:
        """One step with the gradients there are, unless they aren't finite; their norm, and whether there was one."""
        norm = plain(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip or math.inf))
        good = all_finite([norm, *losses])
        self._set(rate)
        if good:  # distributed tensors take no step on a condition, so this waits for the device
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm, good

    def weights(self) -> list[Piece]:
        """This rank's rows of each weight: neighbouring ones, so one stretch of the flattened weight."""
        found = []
        for name, weight in self.model.named_parameters():
            rows = -(-weight.shape[0] // self.run.world_size)
            first = min(self.run.rank * rows, weight.shape[0])
            start = first * (weight.numel() // weight.shape[0])
            found.append(Piece(name, tuple(weight.shape), start, _local(weight)))
        return found

    def moments(self, key: str) -> list[Tensor]:
        """AdamW's averages for the same rows."""
        assert key in MOMENTS
        return [_local(self.adamw.state[weight][key]) for weight in self.model.parameters()]

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight gathered, one after the other."""
        for name, weight in self.model.named_parameters():
            yield name, plain(weight.detach())


def _local(value: Any) -> Tensor:
    return value.detach().to_local().view(-1)
