"""Where a step would wait for its GPU: `Watch` names the operations, and the lines of ours that ask for them.

It works on fake CUDA tensors (tests.gpu.fake_cuda). Libraries may take other ways where tensors are fakes, so with
`device="cpu"` it watches real tensors on the CPU instead: then only the operations, since there are no copies.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent.parent

CUDA = torch.device("cuda", 0)
"""The device that tests.gpu.fake_cuda adds."""

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense: "reads a value",
    aten.bincount: "reads the smallest and the largest value",
    aten.equal: "reads whether all are equal",
    aten.histc: "reads the smallest and the largest value",
    aten.linalg_cholesky: "reads whether it succeeded",
    aten.linalg_inv: "reads whether it succeeded",
    aten.linalg_solve: "reads whether it succeeded",
    aten.masked_select: "counts what it selects",
    aten.nonzero: "counts what it finds",
    aten.unique_consecutive: "counts what it finds",
    aten.unique_dim: "counts what it finds",
    aten._unique2: "counts what it finds",
}
"""Operations after which torch waits for the GPU, and why."""
ANSWERS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: lambda x: True if x.dtype is torch.bool else 1,
    aten.bincount.default: lambda x, weights=None, minlength=1: x.new_zeros(minlength),
    aten.equal.default: lambda x, y: True,
    aten.repeat_interleave.Tensor: lambda repeats, output_size=None: torch.zeros_like(repeats),
}
"""What the operations give that fakes can't answer: ones and truths, counts of as many codes as there are."""
COPIES = {aten._to_copy, aten.copy_}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index}


class Seen(TorchDispatchMode):
    """Hands every operation that torch would compute to `met`, and answers where a program reads values of fakes."""

    def met(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives; by default the operation's own result."""
        return func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inside = torch.is_inference_mode_enabled()  # there, operations come before they are taken apart
        if inside and func.namespace == "aten" and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        try:
            return self.met(func, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if func not in ANSWERS:
                raise
            return ANSWERS[func](*args, **kwargs)


class Watch(Seen):
    """Counts what waits for the device, by line, in `waits`."""

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device = device
        self.waits: Counter[str] = Counter()

    def met(self, func: Any, args: Any, kwargs: Any) -> Any:
        packet = func._overloadpacket
        there = any(tensor.device.type == self.device for tensor in _tensors((args, kwargs)))
        if there and packet in WAITING:
            self._note(f"{packet.__name__} {WAITING[packet]}")
        elif there and packet is aten.repeat_interleave and kwargs.get("output_size") is None:
            self._note("repeat_interleave reads the sum of the repeats; give output_size")
        elif there and packet in INDEXED:
            self._indexed(args[1])
        out = func(*args, **kwargs)
        if self.device != "cpu" and packet in COPIES:
            self._copied(packet, args, kwargs, out)
        return out

    def _indexed(self, indices: Any) -> None:
        for index in _tensors(indices):
            if index.dtype in (torch.bool, torch.uint8):
                self._note("an index of truth values counts what it finds")
            elif index.device.type != self.device:
                self._note(f"an index of {index.numel()} places on the CPU is copied to the GPU")

    def _copied(self, packet: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        source, target = (args[1], args[0]) if packet is aten.copy_ else (args[0], out)
        if {source.device.type, target.device.type} != {"cpu", self.device}:
            return
        size = f"{source.numel()} values of {str(source.dtype).removeprefix('torch.')}"
        if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
            self._note(f"copy of {size} between CPU and GPU")
        elif not (source if source.device.type == "cpu" else target).is_pinned():
            self._note(f"non_blocking copy of {size} from or to memory that isn't pinned")

    def _note(self, what: str) -> None:
        self.waits[f"{_line()}: {what}"] += 1


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _line() -> str:
    """The innermost line of ours, and where it led in a library; autograd's threads have none, so the main one's."""
    frames = traceback.extract_stack(sys._getframe(2))
    main: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    if not any(_ours(frame.filename) for frame in frames) and main is not None:
        frames = traceback.extract_stack(main)
    own = [number for number, frame in enumerate(frames) if _ours(frame.filename)] or [0]
    frame = frames[own[-1]]
    place = f"{frame.filename.removeprefix(f'{ROOT}/')}:{frame.lineno}"
    inside = [frame for frame in frames[own[-1] + 1 :] if "/site-packages/" in frame.filename]
    inside = [frame for frame in inside if "/site-packages/torch/" not in frame.filename]
    if inside:
        name = inside[-1].filename.partition("/site-packages/")[2]
        place += f" in {name}:{inside[-1].lineno}"
    return place


def _ours(file: str) -> bool:
    return file.startswith(f"{ROOT}/") and "/site-packages/" not in file and file != __file__
