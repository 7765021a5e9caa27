"""Which types tensors are computed in, and how float32 is multiplied.

Weights may be bf16 or fp16. Where that is too coarse (distances, code vectors, statistics), they are widened to float32
for the computation, and the result is narrowed to their type again. float32 itself may be multiplied as TF32 on GPUs,
with 10 bits instead of 23; `ieee` keeps that out of codes and figures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Result = TypeVar("Result")

HALF = (torch.bfloat16, torch.float16)
"""Types that are widened."""

Float32 = Literal["ieee", "tf32"]
"""How products and convolutions of float32 are computed where the hardware has a choice."""

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""Arithmetic of an evaluation or encoding: fp32 is IEEE float32."""

TYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Types of the weights for each of them."""

IN_TRAINING: dict[str, Float32 | None] = {"torch": None, "never": "ieee", "always": "tf32"}
"""What the values of run.tf32 mean."""

EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
"""Operators that stay IEEE in compiled graphs; stage1_tokenizer.layers.exact, which training imports, fills it."""

_in_force: ContextVar[Float32 | Literal["torch's"] | None] = ContextVar("_in_force", default=None)
"""What `float32_as` has chosen around this point; None where nothing is chosen."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 become float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in HALF else tensor


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16, so that it is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def product(a_MN: Tensor, b_NP: Tensor) -> Tensor:
    """a @ b of two matrices, which in a compiled graph too is what `float32_as` says in quantizers: IEEE."""
    exact = EXACT.get("product") if torch.compiler.is_compiling() else None
    return exact(a_MN, b_NP) if exact else a_MN @ b_NP


def widened(layer: nn.Module, h: Tensor) -> Tensor:
    """layer(h) of a linear layer, a 2-D convolution that keeps the size, or an identity; weights at least float32."""
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return layer(h)
    if torch.compiler.is_compiling() and EXACT:
        weight = at_least_float32(layer.weight)
        linear = isinstance(layer, nn.Linear)
        made = EXACT["product"](h, weight.T) if linear else EXACT["convolution"](h, weight)
        return made if layer.bias is None else made + layer.bias.to(made.dtype).view(-1, *[1] * (made.ndim - 2))
    if layer.weight.dtype not in HALF:
        return layer(h)
    weight, bias = layer.weight.float(), None if layer.bias is None else layer.bias.float()
    return F.linear(h, weight, bias) if isinstance(layer, nn.Linear) else layer._conv_forward(h, weight, bias)


def as_weights_of(module: nn.Module, h: Tensor) -> Tensor:
    """A tensor in the type of the module's weights, which its layers need; as it is if the module has none."""
    weight = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    return h if weight is None else h.to(weight.dtype)


def no_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Inside, autocast computes nothing on the tensor's device; that of tensors without data has no autocast."""
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)


def without_autocast(method: Callable[..., Result]) -> Callable[..., Result]:
    """A method that computes in the types of its weights, whatever autocast says; its first argument is a tensor."""

    @functools.wraps(method)
    def plain(self: Any, first: Tensor, *others: Any, **named: Any) -> Result:
        with no_autocast(first):
            return method(self, first, *others, **named)

    return plain


def float32_as(how: Float32 | None) -> AbstractContextManager[None]:
    """Inside, float32 is multiplied this way, also where `ieee` is asked for; None leaves torch's settings.

    The settings are torch's, of the whole process, and are what they were before afterwards. A compiled graph can't
    change them in its middle: there `product` and `widened` keep what has to be IEEE, the rest is as set around it.
    """
    return nullcontext() if torch.compiler.is_compiling() else _float32_as(how)


@contextmanager
def _float32_as(how: Float32 | None) -> Iterator[None]:
    before = None if how in (None, _in_force.get()) else _settings()
    outside = _in_force.set(how or "torch's")
    try:
        if before is not None and how is not None:
            _set(how)
        yield
    finally:
        _in_force.reset(outside)
        if before is not None:
            _restore(before)


@contextmanager
def ieee() -> Iterator[None]:
    """Inside, float32 is multiplied as IEEE says, unless `float32_as` has chosen otherwise around it."""
    with nullcontext() if torch.compiler.is_compiling() or _in_force.get() else float32_as("ieee"):
        yield


def at_precision(precision: Precision) -> AbstractContextManager[None]:
    """Inside, float32 is multiplied as `precision` says; weights have to be cast to its type."""
    return float32_as("tf32" if precision == "tf32" else "ieee")


def _places() -> list[Any]:
    """Where torch 2.9 and later keep a precision of float32 for each library and kind of operation."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    return [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]  # type: ignore[attr-defined]


def _older(get: Callable[[], Any]) -> Any:
    """A setting of torch's older names, which can't be read once a program has used the newer ones: then None."""
    try:
        return get()
    except RuntimeError:
        return None


def _settings() -> tuple[str | None, bool | None, list[str]]:
    older = _older(torch.get_float32_matmul_precision), _older(lambda: torch.backends.cudnn.allow_tf32)
    return *older, [place.fp32_precision for place in _places()]


def _set(how: Float32) -> None:
    """By both kinds of names where both are in use, as torch refuses to answer where they contradict each other."""
    products, convolutions, _ = _settings()
    if products is not None:
        torch.set_float32_matmul_precision("highest" if how == "ieee" else "high")
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = how == "tf32"
    for place in _places():
        if place.fp32_precision != how:
            place.fp32_precision = how


def _restore(before: tuple[str | None, bool | None, list[str]]) -> None:
    products, convolutions, newer = before
    if products is not None:
        torch.set_float32_matmul_precision(products)
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions
    for place, value in zip(_places(), newer, strict=True):
        if place.fp32_precision != value:
            place.fp32_precision = value
