# Made from stage1_tokenizer.normalization of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F
from typing import Any


LEAST_VALUES = 1 << 18
"""In smaller pictures torch's own is as fast."""


PIECE = 1 << 17
"""Values of one piece."""


def group_norm_swish(x_BCHW: Tensor, groups: int, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    """swish(group_norm(x)), of the same shape and type; statistics are float32 under mixed precision."""
    if _own(x_BCHW, weight_C):
        return _GroupNormSwish.apply(x_BCHW, groups, weight_C, bias_C, eps)
    return F.silu(F.group_norm(x_BCHW, groups, weight_C, bias_C, eps))


def _own(x_BCHW: Tensor, weight_C: Tensor) -> bool:
    return (
        x_BCHW.device.type == "cpu"
        and x_BCHW.ndim == 4
        and x_BCHW.dtype == weight_C.dtype
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x_BCHW.numel() >= LEAST_VALUES
        and x_BCHW.is_contiguous(memory_format=torch.channels_last)
    )


class _GroupNormSwish(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        batch, channels = x.shape[:2]
        positions = x.shape[2] * x.shape[3]
        normed, mean_BG, scale_BG = torch.native_group_norm(x, weight, bias, batch, channels, positions, groups, eps)
        context.save_for_backward(x, mean_BG, scale_BG, weight, bias)
        return F.silu(normed, inplace=True)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean_BG, scale_BG, weight, bias = context.saved_tensors
        towards = gradients[0].contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():
            raise RuntimeError("the gradient of this gradient is not computed: use torch's group_norm and silu")
        (batch, channels), groups = x.shape[:2], mean_BG.shape[1]
        each = channels // groups
        x_BNC, towards_BNC = (h.permute(0, 2, 3, 1).reshape(batch, -1, channels) for h in (x, towards))
        scale_BC, mean_BC = (h.repeat_interleave(each, 1) for h in (scale_BG, mean_BG))
        slope_BC = scale_BC * weight
        offset_BC = bias - mean_BC * slope_BC
        found = torch.empty_like(x)
        found_BNC = found.permute(0, 2, 3, 1).view(batch, -1, channels)
        sums_B2C = _through_swish(x_BNC, towards_BNC, slope_BC, offset_BC, found_BNC)
        with_x_BC, alone_BC = sums_B2C.unbind(1)
        count = x_BNC.shape[1] * each
        with_x_BG, alone_BG = ((h * weight).view(batch, groups, each).sum(2) for h in (with_x_BC, alone_BC))
        of_x_BG = (alone_BG * mean_BG - with_x_BG) * scale_BG**3 / count
        constant_BG = -of_x_BG * mean_BG - alone_BG * scale_BG / count
        of_x_BC, constant_BC = (h.repeat_interleave(each, 1) for h in (of_x_BG, constant_BG))
        for number in range(batch):
            for x_NC, found_NC in zip(_split(x_BNC[number]), _split(found_BNC[number]), strict=True):
                found_NC.mul_(slope_BC[number]).addcmul_(x_NC, of_x_BC[number]).add_(constant_BC[number])
        towards_weight = ((with_x_BC - alone_BC * mean_BC) * scale_BC).sum(0)
        return found, None, towards_weight, alone_BC.sum(0), None


def _through_swish(
    x_BNC: Tensor, towards_BNC: Tensor, slope_BC: Tensor, offset_BC: Tensor, found_BNC: Tensor
) -> Tensor:
    """Write the gradient at the norm's output into `found`; its sums over positions, with x and alone, (B, 2, C)."""
    sums = x_BNC.new_zeros(len(x_BNC), 2, x_BNC.shape[2])
    ones = x_BNC.new_ones(1, x_BNC.shape[1])
    for number in range(len(x_BNC)):
        parts = (_split(h[number]) for h in (x_BNC, towards_BNC, found_BNC))
        for x_NC, towards_NC, found_NC in zip(*parts, strict=True):
            work_NC = torch.addcmul(offset_BC[number], x_NC, slope_BC[number])
            torch.ops.aten.silu_backward.grad_input(towards_NC, work_NC, grad_input=found_NC)
            torch.mul(found_NC, x_NC, out=work_NC)
            row = ones[:, : len(x_NC)]
            sums[number, 0] += (row @ work_NC)[0]
            sums[number, 1] += (row @ found_NC)[0]
    return sums


def _split(h_NC: Tensor) -> tuple[Tensor, ...]:
    return h_NC.split(max(1, PIECE // h_NC.shape[1]))
