"""Operations that a CUDA build of torch has as one kernel and a CPU build takes apart on fake CUDA tensors, as one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import Library, custom_op
from torch.utils import _foreach_utils
from torch.utils.flop_counter import register_flop_formula


@custom_op("on_paper::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Fused attention of (B, H, T, d): the output, and the log-sums that its backward needs."""
    raise NotImplementedError("fakes only")


@attention.register_fake
def _(q, k, v, mask, causal):  # type: ignore[no-untyped-def]
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)


@custom_op("on_paper::attention_backward", mutates_args=())
def attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    raise NotImplementedError("fakes only")


@attention_backward.register_fake
def _(gradient, q, k, v, out, sums, mask, causal):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, mask, ctx.causal = inputs
    ctx.save_for_backward(q, k, v, *output, mask)


def _back(context: Any, gradient: Tensor, _: Tensor) -> Any:
    q, k, v, out, sums, mask = context.saved_tensors
    return *attention_backward(gradient, q, k, v, out, sums, mask, context.causal), None, None


attention.register_autograd(_back, setup_context=_keep)


def _products(q_shape: Any, k_shape: Any, causal: bool, count: int) -> int:
    heads, tokens, width = q_shape[0] * q_shape[1], q_shape[2], q_shape[3]
    return count * 2 * heads * tokens * k_shape[2] * width // (2 if causal else 1)


@register_flop_formula(torch.ops.on_paper.attention)
def _(q, k, v, mask, causal, out_shape=None, **_kwargs):  # type: ignore[no-untyped-def]
    return _products(q, k, causal, 2)


@register_flop_formula(torch.ops.on_paper.attention_backward)
def _(gradient, q, k, v, out, sums, mask, causal, out_shape=None, **_kwargs):  # type: ignore[no-untyped-def]
    return _products(q, k, causal, 5)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    if torch.is_autocast_enabled("cuda"):  # as autocast does for it
        query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
    return attention(query, key, value, attn_mask, is_causal)[0]


@cache
def _kernels() -> Library:
    """Kernels that are never run; torch asks whether there are any."""
    library = Library("aten", "IMPL")
    for name in ("silu_backward", "_fused_rms_norm", "_fused_rms_norm_backward"):
        if hasattr(torch.ops.aten, name):
            library.impl(name, lambda *_: None, "CUDA")
    return library


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Inside, these operations stay whole."""
    _kernels()
    taken = [*_foreach_utils._foreach_supported_types, FakeTensor]  # else lists of fakes are taken one by one
    with (
        mock.patch.object(F, "scaled_dot_product_attention", _attention),
        mock.patch.object(_foreach_utils, "_foreach_supported_types", taken),
    ):
        yield
