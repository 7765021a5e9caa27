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
from launch.strategies.aside import Aside, fill_moments, without
from launch.strategies.base import DEPRECATED, Strategy

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
        aside: Sequence[str] = (),
    ):
        self.run, self.name = run, run.strategy
        self.in_step = self.name == "zero3"
        self.model = model.to(run.device)
        self._clip, self._square = clip, torch.zeros((), device=run.device)
        if aside:
            self.aside = Aside(model, aside, make_optimizer, run.device)
        with without(model, aside):
            self._share(model, make_optimizer, run, clip, parts)

    def _share(
        self,
        model: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.AdamW],
        run: Run,
        clip: float,
        parts: int,
    ) -> None:
        """Make the engine."""
        self._named = dict(model.named_parameters())
        self._shapes = {name: tuple(weight.shape) for name, weight in self._named.items()}
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
        if self.aside is not None:
            self._count_aside()
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

    def clip(self, clip: float, scale: Tensor | None = None) -> Tensor | None:
        """The engine does it when it steps, to the norm that it was told."""
        assert scale is None
        if self.aside is not None:
            self._square = self.aside.average()
        return None

    def step(self, rate: float, good: Tensor | None) -> Tensor | None:
        """One step with the gradients there are, clipped as the engine was told; their norm. It is never left out."""
        self._set(rate)
        with without(self.model, tuple(self.aside.children) if self.aside else ()):  # zero3 looks at all weights
            self.module.step()
        norm = torch.as_tensor(self.module.get_global_grad_norm(), device=self.run.device)
        if self.aside is not None:
            if self._clip:
                self.aside.scale((self._clip / (norm + 1e-6)).clamp(max=1.0))
            self.aside.step(rate, norm.isfinite())  # the engine doesn't take a step that isn't finite either
        return norm

    def _count_aside(self) -> None:
        """Let the engine's norm of all gradients include those of the parts that it doesn't have."""
        which = "_get_norm_groups" if self.name == "zero3" else "scaled_global_norm"
        own = getattr(self._optimizer, which)

        def norms(*arguments: Any, **options: Any) -> Any:
            found = own(*arguments, **options)
            if self.name == "zero3":
                return [*found, self._square.sqrt().to(found[0])]
            return found if found < 0 else (found.square() + self._square.to(found)).sqrt()  # -1: not finite

        setattr(self._optimizer, which, norms)

    def weights(self) -> list[Piece]:
        """This rank's stretches of the float32 weights, and of those that aren't trained."""
        fixed = {name: weight for name, weight in self._named.items() if not weight.requires_grad}
        return self.trained() + [self._fixed(name, weight) for name, weight in fixed.items()]

    def trained(self) -> list[Piece]:
        """Those of `weights()` that the optimizer moves."""
        return [Piece(name, shape, start, flat[at]) for name, shape, start, flat, at in self._places()]

    def _fixed(self, name: str, weight: Any) -> Piece:
        """The piece of a weight without an optimizer: with zero3 this rank's stretch, else all of it."""
        if self.name != "zero3":
            return Piece(name, self._shapes[name], 0, weight.detach().view(-1), everywhere=True)
        count = weight.ds_tensor.numel()
        start = min(self.run.rank * count, weight.ds_numel)
        return Piece(name, self._shapes[name], start, weight.ds_tensor[: min(count, weight.ds_numel - start)])

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
        for name, weight in self._named.items():
            with self.gathered([weight]):
                yield name, weight.detach()

    def gathered(self, weights: Sequence[nn.Parameter] | None = None) -> AbstractContextManager[Any]:
        """Inside, these weights (or all) are whole."""
        if self.name != "zero3":
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(self._named.values() if weights is None else weights))

    def _flats(self) -> list[Tensor]:
        """The optimizer's own tensors: this rank's stretches end to end."""
        if self.name == "zero3":
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return list(self._optimizer.single_partition_of_fp32_groups)

    def _places(self) -> Iterator[tuple[str, tuple[int, ...], int, Tensor, slice]]:
        """Name, shape and start of each stretch that this rank holds, and where in which flat tensor it lies."""
        flats = self._flats()
        weight: Any
        for name, weight in self._named.items():
            shape = self._shapes[name]
            if not weight.requires_grad:
                continue
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
