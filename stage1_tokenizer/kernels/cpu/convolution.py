"""3x3 convolutions of stride 1 on CPUs, in channels-last layout: the Winograd kernel with its gradient.

Legend: B batch, C channels (I in, O out), H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stage1_tokenizer.kernels.cpu import winograd

LEAST_CHANNELS = 128 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32
"""With fewer channels, torch's own convolutions are faster: Winograd's has its transforms (docs/performance.md)."""

LEAST_POSITIONS = 1024
"""With fewer positions in a batch, transforming the weights costs more than is gained."""


def applies(x_BIHW: Tensor, weight_OIHW: Tensor) -> bool:
    """Whether the kernels support this: on a CPU, in full precision, channels-last, not compiled."""
    return (
        x_BIHW.device.type == "cpu"
        and x_BIHW.dtype == weight_OIHW.dtype
        and x_BIHW.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x_BIHW.is_contiguous(memory_format=torch.channels_last)
    )


class FastConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1, by Winograd's algorithm if that is faster."""

    def forward(self, x_BIHW: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H, W)."""
        weight_OIHW = self.weight  # a property under parametrizations: compute it once
        large = min(weight_OIHW.shape[:2]) >= LEAST_CHANNELS and x_BIHW.numel() >= LEAST_POSITIONS * x_BIHW.shape[1]
        if large and applies(x_BIHW, weight_OIHW) and winograd.applies(x_BIHW, weight_OIHW, 1):
            return _Correlation.apply(x_BIHW, weight_OIHW, self.bias)
        return self._conv_forward(x_BIHW, weight_OIHW, self.bias)

    @staticmethod
    def takes(layer: nn.Conv2d) -> bool:
        """Whether the kernel supports this layer: 3x3, stride 1, one group, zero padding of 1."""
        plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
        return plain and layer.kernel_size == (3, 3) and layer.padding == (1, 1)


class _Correlation(torch.autograd.Function):
    """The convolution and its gradients."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return winograd.correlate(x, weight, bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        grad_y = gradients[0].contiguous(memory_format=torch.channels_last)
        needed = list(context.needs_input_grad)
        if torch.is_grad_enabled():  # torch's gradients are differentiable
            return torch_gradients(grad_y, x, weight, 1, needed)
        return (
            winograd.input_gradient(grad_y, weight) if needed[0] else None,
            winograd.weight_gradient(x, grad_y) if needed[1] else None,
            grad_y.sum((0, 2, 3)) if needed[2] else None,
        )


def torch_gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, padding: int, needed: list[bool]
) -> tuple[Tensor | None, ...]:
    """torch's gradients of x, weight and bias, if `needed`; they can be differentiated again."""
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        grad_y, x, weight, [len(weight)], [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, needed
    )
    return gradients
