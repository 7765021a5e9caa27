"""Group normalization and swish on GPUs: operators of torch that read and write in the input's type, by Triton.

Statistics and sums are float32, whatever autocast says. For the backward pass, the input and float32 statistics of the
groups are kept. Results are the same in each run: nothing is added atomically, and the split of the work depends on
shapes alone. Legend: B batch, C channels, N positions (H·W), G groups.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from stage1_tokenizer.kernels.gpu.loading import OPTIONS, Cost, device_of, power_of_2, programs
from stage1_tokenizer.kernels.gpu.splitting import Plan, plan
from stage1_tokenizer.layers.norm import Norm
from stage1_tokenizer.layers.norm import group_norm as torch_group_norm
from stage1_tokenizer.layers.precision import at_least_float32

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of input that the kernels support."""


def cost(x_BCN: Tensor, groups: int, *, backward: bool = False) -> Cost:
    """Launches and passes of one call of `vqloom::group_norm`, or of its backward."""
    whole = _plan(x_BCN, groups).whole
    if backward:
        return Cost(launches=2, reads=2 if whole else 4, writes=1)
    return Cost(launches=1 if whole else 2, reads=1 if whole else 2, writes=1)


COST = {
    "vqloom::group_norm": Cost(launches=2, reads=2, writes=1),
    "vqloom::group_norm_backward": Cost(launches=2, reads=4, writes=1),
}
"""The most that a call of each operator costs; `cost` says it for an input."""


class FusedNorm(Norm):
    """Norm, by the operator where the input is on a GPU and its type is supported."""

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape, type and layout as the input."""
        if not takes(h_BCHW):
            return super().forward(h_BCHW)
        return group_norm(h_BCHW, self.num_groups, self.weight, self.bias, self.eps, swish=self.swish)


def takes(x_BCN: Tensor) -> bool:
    """Whether the kernels support an input; torch has to do it otherwise."""
    return x_BCN.is_cuda and x_BCN.dtype in TYPES


def group_norm(
    x_BCN: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    *,
    swish: bool = False,
) -> Tensor:
    """Normalized over groups of channels, (B, C, ...) to the same shape, type and layout.

    weight and bias are (C,), or (B, C) for each picture its own; give both or neither.
    """
    y_BCN: Tensor = _forward(dense(x_BCN), weight, bias, groups, eps, swish)[0]
    return y_BCN


def plain(x_BCN: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, swish: bool) -> Tensor:
    """What the operator computes, by torch, in at least float32."""
    y_BCN = torch_group_norm(at_least_float32(x_BCN), groups, eps=eps)
    if weight is not None and bias is not None:
        shape = (-1, x_BCN.shape[1], *[1] * (x_BCN.ndim - 2))
        y_BCN = y_BCN * weight.view(shape) + bias.view(shape)
    return (F.silu(y_BCN) if swish else y_BCN).to(x_BCN.dtype)


def dense(x_BCN: Tensor) -> Tensor:
    """Itself if it is contiguous or channels-last, else a copy that is, with channels last if they were."""
    by_channels = x_BCN.movedim(1, -1)
    if x_BCN.is_contiguous() or by_channels.is_contiguous():
        return x_BCN
    return by_channels.contiguous().movedim(-1, 1) if x_BCN.stride(1) == 1 else x_BCN.contiguous()


def _plan(x_BCN: Tensor, groups: int) -> Plan:
    positions = math.prod(x_BCN.shape[2:])
    last = positions == 1 or not x_BCN.is_contiguous()
    return plan(len(x_BCN), x_BCN.shape[1], positions, groups, last=last)


def _laid_out_as(x_BCN: Tensor, dy_BCN: Tensor) -> Tensor:
    return dy_BCN if dy_BCN.stride() == x_BCN.stride() else torch.empty_like(x_BCN).copy_(dy_BCN)


def _kind(weight: Tensor | None, swish: bool) -> dict[str, bool]:
    """Compile-time values of programs with weights."""
    return {"affine": weight is not None, "per_picture": weight is not None and weight.ndim == 2, "swish": swish}


def _or(weight: Tensor | None, x_BCN: Tensor) -> Tensor:
    """Something to point to where there is no weight."""
    return x_BCN if weight is None else weight.contiguous()


def _empty(x_BCN: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    mean_BG, scale_BG = (x_BCN.new_empty(len(x_BCN), groups, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x_BCN), mean_BG, scale_BG


def _empty_gradients(x_BCN: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    dweight, dbias = (x_BCN.new_empty(0) if h is None else h.new_empty(h.shape) for h in (weight, bias))
    return torch.empty_like(x_BCN), dweight, dbias


@custom_op(
    "vqloom::group_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor? weight, Tensor? bias, int groups, float eps, bool swish) -> (Tensor, Tensor, Tensor)",
)
def _forward(
    x_BCN: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, groups: int, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and mean and inverse deviation of the groups, (B, G)."""
    x_BCN = dense(x_BCN)
    y_BCN, mean_BG, scale_BG = _empty(x_BCN, groups)
    if not x_BCN.numel():
        return y_BCN, mean_BG, scale_BG
    split, positions = _plan(x_BCN, groups), math.prod(x_BCN.shape[2:])
    weight, bias = _or(weight_C, x_BCN), _or(bias_C, x_BCN)
    common = split.shape | _kind(weight_C, swish) | {"num_warps": split.warps} | OPTIONS
    grid = len(x_BCN) * split.blocks
    made = programs("group_norm")
    with device_of(x_BCN):
        if split.whole:
            made.whole[(grid,)](x_BCN, y_BCN, weight, bias, mean_BG, scale_BG, positions, eps, **common)
            return y_BCN, mean_BG, scale_BG
        part = x_BCN.new_empty(2, len(x_BCN), split.chunks, groups, dtype=torch.float32)
        chunked = (positions, split.chunks, split.chunk_rows)
        made.statistics[(grid * split.chunks,)](
            x_BCN, part[0], part[1], *chunked, **split.shape, num_warps=split.warps, **OPTIONS
        )
        made.normalize[(grid * split.parts,)](
            *(x_BCN, y_BCN, weight, bias, part[0], part[1], mean_BG, scale_BG),
            *(*chunked, split.parts, split.part_rows, eps, power_of_2(split.chunks)),
            **common,
        )
    return y_BCN, mean_BG, scale_BG


@custom_op(
    "vqloom::group_norm_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor scale, int groups, float eps, "
    "bool swish) -> (Tensor, Tensor, Tensor)",
)
def _backward(
    dy_BCN: Tensor,
    x_BCN: Tensor,
    weight_C: Tensor | None,
    bias_C: Tensor | None,
    mean_BG: Tensor,
    scale_BG: Tensor,
    groups: int,
    eps: float,
    swish: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; those of absent weights have no values."""
    x_BCN = dense(x_BCN)
    dy_BCN = _laid_out_as(x_BCN, dy_BCN)
    dx_BCN, dweight_C, dbias_C = _empty_gradients(x_BCN, weight_C, bias_C)
    if not x_BCN.numel():
        return dx_BCN, dweight_C.zero_(), dbias_C.zero_()
    split, kind = _plan(x_BCN, groups), _kind(weight_C, swish)
    outputs = 0 if weight_C is None else len(x_BCN) if kind["per_picture"] else 1
    given = (x_BCN, dy_BCN, dx_BCN, _or(weight_C, x_BCN), _or(bias_C, x_BCN), mean_BG, scale_BG)
    with device_of(x_BCN):
        launch = _launch_whole if split.whole else _launch_chunked
        launch(split, kind | {"num_warps": split.warps} | OPTIONS, given, (dweight_C, dbias_C), outputs)
    if math.prod(x_BCN.shape[1:]) == groups:
        dx_BCN.zero_()  # a group of a single value is its bias, whatever the value; rounding would say otherwise
    return dx_BCN, dweight_C, dbias_C


Tensors = tuple[Tensor, ...]


def _launch_whole(split: Plan, kind: dict[str, Any], given: Tensors, weights: Tensors, outputs: int) -> None:
    """dx, then the sums over pictures for `outputs` gradients of weight and bias each."""
    batch, channels, *grid = given[0].shape
    made = programs("group_norm_backward")
    sum_B2C = given[0].new_empty(batch, 2, channels, dtype=torch.float32)
    made.whole_gradients[(batch * split.blocks,)](*given, sum_B2C, math.prod(grid), **split.shape, **kind)
    if outputs:
        count = batch // outputs
        adding = plan(1, channels, count, split.shape["groups"], last=True)
        made.weight_gradients[(adding.blocks * outputs,)](
            sum_B2C, *weights, count, **adding.shape, num_warps=adding.warps, **OPTIONS
        )


def _launch_chunked(split: Plan, kind: dict[str, Any], given: Tensors, weights: Tensors, outputs: int) -> None:
    """Sums of chunks, then dx and, by other programs of the same launch, the gradients of weight and bias."""
    x_BCN, chunks = given[0], split.chunks
    batch, channels, *grid = x_BCN.shape
    positions, made = math.prod(grid), programs("group_norm_backward")
    sum_BK2C = x_BCN.new_empty(batch, chunks, 2, channels, dtype=torch.float32)
    sum_BK2G = x_BCN.new_empty(batch, chunks, 2, split.shape["groups"], dtype=torch.float32)
    made.sums[(batch * split.blocks * chunks,)](
        *(given[:2] + given[3:]), sum_BK2C, sum_BK2G, positions, chunks, split.chunk_rows, **split.shape, **kind
    )
    made.gradients[((batch * split.parts + outputs) * split.blocks,)](
        *(*given, *weights, sum_BK2C, sum_BK2G, positions, chunks, split.parts, split.part_rows),
        *(outputs, batch * chunks // max(1, outputs), power_of_2(chunks)),
        **(split.shape | kind),
    )


@_forward.register_fake
def _(x_BCN, weight_C, bias_C, groups, eps, swish):  # type: ignore[no-untyped-def]
    return _empty(dense(x_BCN), groups)


@_backward.register_fake
def _(dy_BCN, x_BCN, weight_C, bias_C, mean_BG, scale_BG, groups, eps, swish):  # type: ignore[no-untyped-def]
    return _empty_gradients(dense(x_BCN), weight_C, bias_C)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x_BCN, weight_C, bias_C, *ctx.settings = inputs
    ctx.save_for_backward(x_BCN, weight_C, bias_C, *output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy_BCN: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    x_BCN, weight_C, bias_C, mean_BG, scale_BG = ctx.saved_tensors
    if dy_BCN is None:
        return (None,) * 6
    dx_BCN, dweight_C, dbias_C = _backward(dy_BCN, x_BCN, weight_C, bias_C, mean_BG, scale_BG, *ctx.settings)
    if weight_C is None:
        return dx_BCN, *(None,) * 5
    return dx_BCN, dweight_C, dbias_C, None, None, None


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[6:]
    ctx.set_materialize_grads(False)


def _second_gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of the backward pass, for gradient penalties: those of the plain form's."""
    if torch.is_grad_enabled():
        raise RuntimeError("group normalization on GPUs has no third derivative: set run.kernels=plain")
    given: list[Any] = [None if h is None else h.detach().requires_grad_() for h in ctx.saved_tensors]
    with torch.enable_grad():
        y_BCN = plain(*given[1:], *ctx.settings)
        inputs = [h for h in given[1:] if h is not None]
        first = torch.autograd.grad(y_BCN, inputs, given[0], create_graph=True)
        outputs, weights = zip(
            *((h, grad) for h, grad in zip(first, grads, strict=False) if grad is not None), strict=True
        )
        found = iter(torch.autograd.grad(outputs, [h for h in given if h is not None], weights, allow_unused=True))
    return *(None if h is None else next(found) for h in given), None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)
_backward.register_autograd(_second_gradients, setup_context=_keep_backward)
