"""Group normalization and swish, with a backward pass for channels-last pictures on CPUs.

The backward works on pieces that fit the cache, and stores only the input, not the input of the swish.
Legend: B batch, C channels, H W pixels, N positions (H·W), G groups.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.layers.norm import Norm

LEAST_VALUES = 1 << 18
"""With fewer values, torch is as fast."""

PIECE = 1 << 17
"""Values of one piece."""


class FastNorm(Norm):
    """Norm, by the kernel if it has a swish and the kernel is faster."""

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Same shape and type as the input."""
        if not self.swish or not _pays(h_BCHW, self.weight):
            return super().forward(h_BCHW)
        return _GroupNormSwish.apply(h_BCHW, self.num_groups, self.weight, self.bias, self.eps)


def _pays(x_BCHW: Tensor, weight_C: Tensor) -> bool:
    return (
        x_BCHW.device.type == "cpu"
        and x_BCHW.ndim == 4
        and x_BCHW.dtype == weight_C.dtype
        and x_BCHW.dtype in (torch.float32, torch.float64)
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
        grad_y = gradients[0].contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():
            raise RuntimeError("this kernel has no second derivative: set run.kernels=plain")
        (batch, channels), groups = x.shape[:2], mean_BG.shape[1]
        each = channels // groups
        x_BNC, grad_BNC = (h.permute(0, 2, 3, 1).reshape(batch, -1, channels) for h in (x, grad_y))
        scale_BC, mean_BC = (h.repeat_interleave(each, 1) for h in (scale_BG, mean_BG))
        slope_BC = scale_BC * weight
        offset_BC = bias - mean_BC * slope_BC
        grad_x = torch.empty_like(x)
        result_BNC = grad_x.permute(0, 2, 3, 1).view(batch, -1, channels)
        sums_B2C = _through_swish(x_BNC, grad_BNC, slope_BC, offset_BC, result_BNC)
        with_x_BC, alone_BC = sums_B2C.unbind(1)
        count = x_BNC.shape[1] * each
        with_x_BG, alone_BG = ((h * weight).view(batch, groups, each).sum(2) for h in (with_x_BC, alone_BC))
        of_x_BG = (alone_BG * mean_BG - with_x_BG) * scale_BG**3 / count
        constant_BG = -of_x_BG * mean_BG - alone_BG * scale_BG / count
        of_x_BC, constant_BC = (h.repeat_interleave(each, 1) for h in (of_x_BG, constant_BG))
        for number in range(batch):
            for x_NC, result_NC in zip(_split(x_BNC[number]), _split(result_BNC[number]), strict=True):
                result_NC.mul_(slope_BC[number]).addcmul_(x_NC, of_x_BC[number]).add_(constant_BC[number])
        grad_weight = ((with_x_BC - alone_BC * mean_BC) * scale_BC).sum(0)
        return grad_x, None, grad_weight, alone_BC.sum(0), None


def _through_swish(x_BNC: Tensor, grad_BNC: Tensor, slope_BC: Tensor, offset_BC: Tensor, result_BNC: Tensor) -> Tensor:
    """Write the gradient of the norm's output to `result`; returns its sums over N with and without x, (B, 2, C)."""
    sums = x_BNC.new_zeros(len(x_BNC), 2, x_BNC.shape[2])
    ones = x_BNC.new_ones(1, x_BNC.shape[1])
    for number in range(len(x_BNC)):
        pieces = (_split(h[number]) for h in (x_BNC, grad_BNC, result_BNC))
        for x_NC, grad_NC, result_NC in zip(*pieces, strict=True):
            work_NC = torch.addcmul(offset_BC[number], x_NC, slope_BC[number])
            torch.ops.aten.silu_backward.grad_input(grad_NC, work_NC, grad_input=result_NC)
            torch.mul(result_NC, x_NC, out=work_NC)
            row = ones[:, : len(x_NC)]
            sums[number, 0] += (row @ work_NC)[0]
            sums[number, 1] += (row @ result_NC)[0]
    return sums


def _split(h_NC: Tensor) -> tuple[Tensor, ...]:
    return h_NC.split(max(1, PIECE // h_NC.shape[1]))
