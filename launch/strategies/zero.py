"""DeepSpeed's ZeRO: run.strategy=zero1, zero2 or zero3, with the settings of launch/deepspeed/zero<n>.json.

The engine is made here, not by accelerate, whose DeepSpeed on CPUs needs a build of kernels and takes every rank for
the only one. Weights stay float32 and are cast in the products under run.precision=bf16, as with ddp, so that every
strategy computes the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from launch.checkpoints.pieces import Piece
from launch.run.runtime import Run
from launch.strategies.base import DEPRECATED, Strategy, fill_moments

FILES = Path(__file__).resolve().parents[1] / "deepspeed"
"""DeepSpeed's settings: zero1.json, zero2.json, zero3.json."""


def settings(name: str) -> dict[str, Any]:
    """DeepSpeed's settings of a strategy: those that the accelerate file names, else our own."""
    own = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    return json.loads((Path(own) if own else FILES / f"{name}.json").read_text())


class Zero(Strategy):
    """Every rank holds a stretch of the weights laid end to end (zero3: of every weight), and its moments."""

    everywhere = False

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.AdamW],
        run: Run,
        *,
        clip: float,
        parts: int,
    ):
        self.run, self.name = run, run.strategy
        self.in_step = self.name == "zero3"
        self.model = model.to(run.device)
        self._shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        if run.config.precision == "bf16":
            # The engine switches off what is on around it, so this goes inside.
            model.forward = run.accelerator.autocast()(model.forward)
        deepspeed = _deepspeed(run)
        config = settings(self.name) | {
            "train_micro_batch_size_per_gpu": 1,  # counted by nobody: the loader is ours
            "gradient_accumulation_steps": parts,
            "gradient_clipping": clip,
        }
        self.module, *_ = deepspeed.initialize(
            model=model, optimizer=make_optimizer(model), config=config, dist_init_required=False
        )
        self._optimizer = self.module.optimizer
        self.adamw = self._optimizer.optimizer
        groups = [{"params": self._flats(), "fused": self.adamw.defaults["fused"]}]
        fill_moments(SimpleNamespace(param_groups=groups, state=self.adamw.state))  # type: ignore[arg-type]

    def part(self, *, last: bool) -> AbstractContextManager:
        """The engine counts the parts itself."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part of the batch."""
        self.module.backward(loss, scale_wrt_gas=False)
        if not self.module.is_gradient_accumulation_boundary():
            self.module.step()  # which only counts

    def descend(self, rate: float, clip: float, losses: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor | None]:
        """One step with the gradients there are, clipped as the engine was told; their norm. It is never left out."""
        self._set(rate)
        self.module.step()
        return torch.as_tensor(self.module.get_global_grad_norm()), None

    def weights(self) -> list[Piece]:
        """This rank's stretches of the float32 weights."""
        return [Piece(name, shape, start, flat[at]) for name, shape, start, flat, at in self._places()]

    def moments(self, key: str) -> list[Tensor]:
        """AdamW's averages for the same stretches."""
        return [self.adamw.state[flat][key][at] for _, _, _, flat, at in self._places()]

    def refresh(self) -> None:
        """From the stretches to the weights that are computed with."""
        if self.name != "zero3":
            self._optimizer.update_lp_params()
            return
        for group in range(len(self._optimizer.fp16_groups)):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # Small weights stay whole between steps (stage3_param_persistence_threshold): fetch them anew.
        kept = self._optimizer.persistent_parameters
        if kept:
            kept[0].partition(kept)
            kept[0].all_gather(kept)

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight gathered, one after the other."""
        for name, weight in self.model.named_parameters():
            with self._gathered(weight):
                yield name, weight.detach()

    def _gathered(self, weight: nn.Parameter) -> AbstractContextManager:
        if self.name != "zero3":
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters([weight])

    def _flats(self) -> list[Tensor]:
        """The optimizer's own tensors: this rank's stretches end to end."""
        if self.name == "zero3":
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return list(self._optimizer.single_partition_of_fp32_groups)

    def _places(self) -> Iterator[tuple[str, tuple[int, ...], int, Tensor, slice]]:
        """Name, shape and start of each stretch that this rank holds, and where in which flat tensor it lies."""
        flats = self._flats()
        weight: Any
        for name, weight in self.model.named_parameters():
            shape = self._shapes[name]
            if self.name == "zero3":
                group, at, count = self._optimizer.grad_position[self._optimizer.get_param_id(weight)]
                start = min(self.run.rank * count, weight.ds_numel)
                count = min(count, weight.ds_numel - start)  # the last stretches are filled up with zeros
            elif weight._hp_mapping is None:
                continue
            else:
                of, own = weight._hp_mapping.lp_fragment_address, weight._hp_mapping.hp_fragment_address
                group, start, at, count = weight._hp_mapping.param_group_index, of.start, own.start, own.numel
            if count > 0:
                yield name, shape, start, flats[group], slice(at, at + count)


def _deepspeed(run: Run) -> Any:
    """The library, on the run's device, without a compiler, and quiet."""
    warnings.filterwarnings("ignore", message=DEPRECATED, category=FutureWarning)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled for more than a minute
    backend = "gloo" if run.device.type == "cpu" else "nccl"
    with contextlib.redirect_stdout(None):
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed
