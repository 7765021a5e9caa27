"""A stand-in for CUDA graphs on CPUs: it records a step's ATen operations, and replays them alone.

As in a CUDA graph, Python runs once, tensors keep their places, and a value that Python reads from one is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise RuntimeError("the step reads a tensor's value in Python")
        made = function(*given, **(named or {}))
        # Other objects for the same memory, as a step may give its tensors other shapes later on.
        given, named = tree_map_only(Tensor, Tensor.detach, (given, named or {}))
        returns = function._schema.returns
        view = any(each.alias_info is not None and not each.alias_info.is_write for each in returns)
        view |= torch.Tag.inplace_view in function.tags
        outputs = [] if function._schema.is_mutable else [tensor.detach() for tensor in _tensors(made)]

        def replay() -> None:
            again = function(*given, **named)
            for kept, new in zip(outputs, _tensors(again) if outputs else [], strict=True):
                kept.copy_(new)

        if not view:
            self.calls.append(replay)
        return made


def _tensors(made: Any) -> list[Tensor]:
    return [tensor for tensor in tree_flatten(made)[0] if isinstance(tensor, Tensor)]


class Tape:
    """A recorder as stage1_tokenizer.training.cuda_graph has it."""

    def __init__(self) -> None:
        self.runs = self.captures = self.replays = 0

    def run(self, step: Callable[[], Any]) -> Any:
        """Without recording."""
        self.runs += 1
        return step()

    def capture(self, step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record the step while it is done."""
        self.captures += 1
        with _Recording() as recording:
            made = step()

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for call in recording.calls:
                    call()

        return replay, made
