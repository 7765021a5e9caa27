"""What a step costs a GPU on paper: arithmetic over the operations that it gives to torch, on fake CUDA tensors.

Bytes are those of an operation's tensors, read and written once; views cost nothing. An operation is one launch, except
those that torch splits: lists of tensors (by the limits of its multi_tensor_apply), a convolution's backward (one for
each gradient), and operators of ours, which say what they cost (COST in stage1_tokenizer/kernels/gpu). Peak memory is
that of live storages; work space of cuDNN and fragmentation come on top. Layouts of convolutions aren't modelled.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from stage1_tokenizer.kernels import gpu
from tests.gpu.watch import Seen

BANDWIDTH, REACHED = 3.35e12, 0.85
"""Bytes per second of an H100 SXM, and the share of it that large kernels reach."""
PEAK = {torch.bfloat16: 989e12, torch.float16: 989e12, torch.float32: 67e12, torch.float64: 67e12}
"""Operations per second of an H100 SXM, dense; float32 without TF32."""
TF32, USED = 494e12, 0.6
"""Of cuDNN's convolutions in float32, and the share of a peak that large products reach."""

CHUNK, BLOCKS = 65536, 320
"""torch's multi_tensor_apply: elements in a block, blocks in a launch."""
TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""Its tensors in a launch, by the number of lists."""

aten = torch.ops.aten
FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._unsafe_view}
FREE |= {aten.detach, aten.lift_fresh, aten.alias, aten._reshape_alias, aten.is_pinned}

COSTS: dict[str, Any] = {}
for _module in pkgutil.iter_modules(gpu.__path__):
    if not _module.name.endswith("_programs"):
        COSTS |= getattr(importlib.import_module(f"{gpu.__name__}.{_module.name}"), "COST", {})


class Costs(Seen):
    """Adds up what is given to torch since `clear`; keep it open from before the networks are made, for the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()
        self.clear()

    def clear(self) -> None:
        """Begin anew; what is in memory stays."""
        self.flops = self.bytes = self.launches = 0
        self.seconds, self.peak = 0.0, self.live
        self.by: dict[str, Counter[str]] = {"bytes": Counter(), "launches": Counter(), "milliseconds": Counter()}

    def figures(self) -> dict[str, float]:
        """The sums, in the units of on_paper's JSON."""
        return {
            "tflop": round(self.flops / 1e12, 3),
            "gigabytes": round(self.bytes / 1e9, 2),
            "launches": self.launches,
            "peak_gib": round(self.peak / 2**30, 2),
            "seconds_h100": round(self.seconds, 5),
        }

    def met(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        made = _on_gpu(out)
        for tensor in made:
            self._track(tensor)
        given = _on_gpu((args, kwargs))
        if (made or given) and not _free(func, given, made):
            self._add(func, args, kwargs, out, given, made)
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any, given: list[Tensor], made: list[Tensor]) -> None:
        packet, name = func._overloadpacket, str(func).removesuffix(".default")
        written = made or [tensor for tensor in given[:1] if func._schema.is_mutable]
        read = given[1:] if packet in (aten.copy_, aten.fill_, aten.zero_) else given
        moved, launches = sum(map(_size, read)) + sum(map(_size, written)), 1
        flops = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
        own = COSTS.get(name.replace(".", "::"))
        if own is not None:
            moved = (own.reads + own.writes) * _size(given[0]) + sum(map(_size, given[2 if own.reads > 2 else 1 :]))
            launches = own.launches
        elif name == "vqloom.ieee_product":
            flops = 2 * given[0].numel() * given[1].shape[-1]
        elif "._foreach" in name or "._fused_adam" in name:
            launches = _lists(name, args)
        elif packet is aten.convolution_backward:
            launches = sum(args[10])
        if name == "vqloom.nearest_code":
            flops = 2 * given[0].numel() * len(given[1])
        seconds = max(moved / (BANDWIDTH * REACHED), flops / (_peak(packet, given) * USED))
        self.flops, self.bytes, self.launches = self.flops + flops, self.bytes + moved, self.launches + launches
        self.seconds += seconds
        for what, amount in (("bytes", moved), ("launches", launches), ("milliseconds", seconds * 1e3)):
            self.by[what][f"{name} {str(given[0].dtype if given else made[0].dtype).removeprefix('torch.')}"] += amount

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // 512) * 512
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _on_gpu(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.device.type == "cuda"]


def _size(tensor: Tensor) -> int:
    """Bytes; of what is expanded, those that are there."""
    elements = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return elements * tensor.element_size()


def _free(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    return func.namespace in ("prim", "prims") or func.is_view or func._overloadpacket in FREE


def _peak(packet: Any, given: list[Tensor]) -> float:
    if not given:
        return PEAK[torch.float32]
    if packet in (aten.convolution, aten.convolution_backward) and given[0].dtype is torch.float32:
        return TF32
    return PEAK.get(given[0].dtype, PEAK[torch.float32])


def _lists(name: str, args: Any) -> int:
    """Launches of an operation on lists of tensors: full of tensors, or full of blocks."""
    lists = [value for value in args if isinstance(value, list | tuple) and _on_gpu(value)]
    depth = len(lists) - ("_fused" in name)  # the steps of a fused optimizer are no list of elements
    tensors = blocks = launches = 0
    for tensor in lists[0]:
        left, tensors = -(-max(tensor.numel(), 1) // CHUNK), tensors + 1
        while left:
            taken = min(left, BLOCKS - blocks)
            left, blocks = left - taken, blocks + taken
            if blocks == BLOCKS or (tensors == TENSORS[min(depth, 5)] and not left):
                launches, blocks, tensors = launches + 1, 0, int(left > 0)
    launches += bool(blocks)
    return launches * (2 if "norm" in name else 1)
