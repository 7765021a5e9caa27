"""CUDA tensors that don't exist: inside `pretend()` they have shapes and types, autograd and autocast, but no values.

So whole training steps run as on a GPU, without one: `tests.gpu.watch` sees where they would wait for it, and
`tests.benchmarks.on_paper` what they would cost. A CPU build of torch needs a few lines of C++ for that, compiled with
g++ and loaded before torch is: import this module first, in a process of its own. Fakes don't show how long anything
takes, nor which memory layout cuDNN gives its results.
"""

from __future__ import annotations

import tests.gpu.fake_device  # isort: skip  # noqa: F401  (before torch)

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # FakeTensorMode imports it, which must not happen after torch is changed
import torch.cuda.amp.common
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

_PINNED: dict[int, Any] = {}
"""Storages that `Tensor.pin_memory` made, kept so that no other gets their address."""


@contextlib.contextmanager
def pretend() -> Iterator[FakeTensorMode]:
    """Inside, all tensors that are made are fakes, and `cuda` is a device like any other."""
    changes: list[tuple[Any, str, Any]] = [
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (nn.Module, "_apply", _apply),
        (FakeTensorMode, "__deepcopy__", lambda mode, _: mode),
        (nn.init, "_no_grad_trunc_normal_", lambda tensor, *_, **__: tensor),  # asks for values until they fit
        (Tensor, "pin_memory", _pinned),
        (Tensor, "is_pinned", is_pinned),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value, create=True))
        stack.callback(_PINNED.clear)
        yield stack.enter_context(FakeTensorMode())


def is_pinned(tensor: Tensor) -> bool:
    """Whether a fake lies in pinned memory of the CPU, from which copies to the GPU don't wait."""
    return tensor.untyped_storage()._cdata in _PINNED


def _pinned(tensor: Tensor) -> Tensor:
    copy = torch.empty_like(tensor)
    storage = copy.untyped_storage()
    _PINNED[storage._cdata] = storage
    return copy


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True, known: Any = None) -> nn.Module:
    """nn.Module._apply without the swap of tensors, which fakes don't support; shared weights stay shared."""
    known = {} if known is None else known
    for child in module.children() if recurse else ():
        if type(child)._apply is _apply:
            _apply(child, change, recurse, known)
        else:
            child._apply(change)
    for name, weight in module._parameters.items():
        if weight is not None and weight not in known:
            with torch.no_grad():
                moved = change(weight)
            known[weight] = weight if moved is weight else nn.Parameter(moved, weight.requires_grad)
        module._parameters[name] = None if weight is None else known[weight]
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module
