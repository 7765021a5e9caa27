"""A CUDA graph's stand-in on the CPU: the operations of a step on a tape, which plays them on the same memory again.

As in a graph, nothing of Python runs when it is played: numbers, shapes and addresses are those of the recording. As
in a capture, asking a tensor for a number is an error, and so is memory from elsewhere (`torch.tensor`) or a random
number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FORBIDDEN = {"_local_scalar_dense", "nonzero", "lift_fresh", "bernoulli_", "uniform_", "normal_", "rand", "equal"}


class Tape(TorchDispatchMode):
    """Records operations, with the tensors that they read and those that they made."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        assert name not in FORBIDDEN, f"{func} can't be captured"
        if name == "_to_copy":
            assert kwargs.get("device") is None, "a captured step stays on its device"
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, [x for x in tree_leaves(out) if isinstance(x, Tensor)]))
        return out

    def play(self) -> None:
        with torch.inference_mode():
            for func, args, kwargs, made in self.operations:
                again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
                for there, value in zip(made, again, strict=True):
                    if there.data_ptr() != value.data_ptr():
                        there.copy_(value)


class Tapes:
    """A capture (stage2_prior.generation.graphs) that counts what it made and how often that was played."""

    def __init__(self) -> None:
        self.made = self.played = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        step()  # as a warm-up does
        tape = Tape()
        with tape:
            step()
        self.made += 1

        def replay() -> None:
            self.played += 1
            tape.play()

        return replay
