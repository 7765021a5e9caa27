"""Triton's programs, loaded where they are first launched, and what an operator costs."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_CAPABILITY = (7, 0)
"""Of a GPU for which Triton compiles."""


OPTIONS = {"enable_fp_fusion": True}
"""Of every launch: a product and a sum become one operation, in all versions of triton."""


class Cost(NamedTuple):
    """What one call of an operator costs on a GPU."""

    launches: int
    """Kernels started."""
    reads: int
    """Passes over tensors of the input's size that are read."""
    writes: int
    """Passes over tensors of the input's size that are written."""


@cache
def programs(name: str) -> ModuleType:
    """The module `{name}_programs` of this room. It needs triton, which only CUDA builds of torch bring along."""
    return importlib.import_module(f"{__package__}.{name}_programs")


@cache
def available() -> bool:
    """Whether triton is installed and compiles for the GPU that is there."""
    if importlib.util.find_spec("triton") is None:
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= LEAST_CAPABILITY


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def ceil_div(whole: int, part: int) -> int:
    """How many parts cover the whole."""
    return -(-whole // part)


def power_of_2(least: int) -> int:
    """The smallest power of 2 that is not less."""
    return 1 << (least - 1).bit_length()
