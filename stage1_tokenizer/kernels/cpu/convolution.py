"""Convolutions of stride 1 on CPUs, in channels-last layout.

oneDNN's channels-last is the fastest layout for the forward and the gradient to the input. 3x3 convolutions need fewer
products (stage1_tokenizer.kernels.cpu.winograd); the gradient to the weight of the others is computed as matrix
products, since oneDNN's is up to twice slower in this layout. Legend: B batch, C channels (I in, O out), H W pixels,
N positions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.kernels.cpu import winograd
from stage1_tokenizer.layers.convolution import Upsample

LEAST_CHANNELS = 32
"""With fewer channels the matrix products are too thin to be faster."""

LEAST_POSITIONS = 1024
"""With fewer positions in a batch, the work on the weights outweighs what is saved on the positions."""

PHASES = torch.tensor(
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
)
"""[phase, tap, kernel]: which entries of a width-3 kernel meet which of 3 neighbours once values are repeated."""


def applies(x_BIHW: Tensor, weight_OIHW: Tensor) -> bool:
    """Whether the kernels can compute this: on a CPU, in full precision, channels-last, not compiled."""
    return (
        x_BIHW.device.type == "cpu"
        and x_BIHW.dtype == weight_OIHW.dtype
        and x_BIHW.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x_BIHW.is_contiguous(memory_format=torch.channels_last)
    )


def pays(x_BIHW: Tensor, weight_OIHW: Tensor) -> bool:
    """Whether the kernels apply and are faster."""
    large = min(weight_OIHW.shape[:2]) >= LEAST_CHANNELS and x_BIHW.numel() >= LEAST_POSITIONS * x_BIHW.shape[1]
    return large and applies(x_BIHW, weight_OIHW)


class FastConv2d(nn.Conv2d):
    """torch's convolution of stride 1, by the kernels where they are faster."""

    def forward(self, x_BIHW: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H', W')."""
        weight_OIHW = self.weight  # may be computed from another (parametrizations)
        if not pays(x_BIHW, weight_OIHW):
            return self._conv_forward(x_BIHW, weight_OIHW, self.bias)
        assert isinstance(self.padding[0], int)
        return _Correlation.apply(x_BIHW, weight_OIHW, self.bias, self.padding[0])

    @staticmethod
    def takes(layer: nn.Conv2d) -> bool:
        """Whether this is a layer for the kernels: stride 1, one group, as much padding on both axes."""
        plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
        return plain and not isinstance(layer.padding, str) and layer.padding[0] == layer.padding[1]


class FastUpsample(Upsample):
    """Repetition and convolution in one: the repeated values are never made.

    Each of the 4 phases of the result is a convolution of x itself, whose kernel sums the entries that meet the same
    value: 2.25 products for each output (stage1_tokenizer.kernels.cpu.winograd) instead of 9.
    """

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        weight, bias = self.conv.weight, self.conv.bias
        if h_BCHW.ndim != 4 or not pays(h_BCHW, weight) or not winograd.applies(h_BCHW, weight, 1):
            return super().forward(h_BCHW)
        phases = PHASES.to(h_BCHW.dtype)
        kernel = torch.einsum("oiyx,apy,bqx->oabipq", weight, phases, phases).reshape(-1, weight.shape[1], 3, 3)
        bias = None if bias is None else bias.repeat_interleave(4)
        return F.pixel_shuffle(_Correlation.apply(h_BCHW, kernel, bias, 1), 2)


class _Correlation(torch.autograd.Function):
    """Convolution of stride 1 with `padding` zeros on every side, by fewer products or with a gradient by products."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        context.save_for_backward(x, weight)
        context.padding = padding
        if winograd.applies(x, weight, padding):
            return winograd.correlate(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        grad_y = gradients[0].contiguous(memory_format=torch.channels_last)
        padding = context.padding
        needed = list(context.needs_input_grad[:3])
        fewer = winograd.applies(x, weight, padding)
        if torch.is_grad_enabled():  # torch's own gradients have gradients themselves
            return *torch_gradients(grad_y, x, weight, padding, needed), None
        result: list[Tensor | None] = [None, None, grad_y.sum((0, 2, 3)) if needed[2] else None]
        if needed[0] and fewer:
            result[0] = winograd.input_gradient(grad_y, weight)
        elif needed[0]:
            result[0] = torch_gradients(grad_y, x, weight, padding, [True, False, False])[0]
        if needed[1]:
            result[1] = winograd.weight_gradient(x, grad_y) if fewer else weight_gradient(x, grad_y, padding)
        return *result, None


def torch_gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, padding: int, needed: list[bool]
) -> tuple[Tensor | None, ...]:
    """torch's gradients to x, weight and bias, those that are `needed`; they can be differentiated again."""
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        grad_y, x, weight, [len(weight)], [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, needed
    )
    return gradients


def weight_gradient(x_BIHW: Tensor, grad_BOHW: Tensor, padding: int) -> Tensor:
    """Gradient (O, I, k, k) to a convolution's weight (stride 1), from its input and the gradient at its output.

    Both are laid out as rows of channels, the gradient padded to the width of the padded input. Then the positions that
    a kernel entry pairs lie at a constant distance, and each of the k² entries is one product of two plain matrices.
    """
    outputs, width = grad_BOHW.shape[1], x_BIHW.shape[3] + 2 * padding
    size = width - grad_BOHW.shape[3] + 1
    x_NI = F.pad(x_BIHW.permute(0, 2, 3, 1), (0, 0, *[padding] * 4)).view(-1, x_BIHW.shape[1])
    grad_NO = F.pad(grad_BOHW.permute(0, 2, 3, 1), (0, 0, 0, size - 1, 0, size - 1)).view(-1, outputs)
    count = len(x_NI) - (size - 1) * (width + 1)
    grad_ON = grad_NO[:count].T
    result = x_NI.new_empty(size, size, outputs, x_NI.shape[1])
    for row in range(size):
        for column in range(size):
            first = row * width + column
            torch.mm(grad_ON, x_NI[first : first + count], out=result[row, column])
    return result.permute(2, 3, 0, 1)
