"""Convolutions of frozen networks on CPUs, with weights in the kernels' layout from the first call on.

LPIPS runs its trunk three times per step, and with few positions the layout of the weights dominates a layer's time.
The cache takes up to four times a weight's memory in each direction: 0.36 GB for VGG16 with pictures of 128 pixels.
Legend: B batch, C channels (I in, O out), H W pixels.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.kernels.cpu import winograd
from stage1_tokenizer.kernels.cpu.convolution import applies, torch_gradients
from stage1_tokenizer.layers.frozen import FrozenConv2d

LEAST_CHANNELS = 32
"""With fewer channels, Winograd's matrix products are too narrow to be faster; its transformed weights are kept."""

MOST_SHAPES = 2
"""Shapes of x with a cached layout: the layout for one shape works for another, but many times slower."""


class FastFrozenConv2d(FrozenConv2d):
    """relu(conv(x) + bias) in channels-last layout; with stride 1, with cached weight layouts."""

    def forward(self, x_BIHW: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H', W')."""
        if x_BIHW.device.type != "cpu":
            return super().forward(x_BIHW)
        x_BIHW = x_BIHW.contiguous(memory_format=torch.channels_last)
        if self.stride > 1 or not applies(x_BIHW, self.weight):
            return super().forward(x_BIHW)
        return _Frozen.apply(x_BIHW, _layouts(self))


_LAYOUTS: weakref.WeakKeyDictionary[FrozenConv2d, _Layouts] = weakref.WeakKeyDictionary()
"""Not attributes of the layers, because oneDNN layouts cannot be copied and layers must be."""


def _layouts(layer: FrozenConv2d) -> _Layouts:
    kept = _LAYOUTS.get(layer)
    if kept is None or kept.weight_OIHW is not layer.weight:  # the first time, or its type has changed since
        kept = _LAYOUTS[layer] = _Layouts(layer.weight, layer.bias, layer.padding)
    return kept


class _Layouts:
    """The layouts of a layer's weight for forward and backward."""

    def __init__(self, weight_OIHW: Tensor, bias_O: Tensor, padding: int):
        self.weight_OIHW, self.padding = weight_OIHW, padding
        self.forward = _Kernel(weight_OIHW, bias_O, padding)
        self._backward: _Kernel | None = None

    def input_gradient(self, grad_BOHW: Tensor) -> Tensor:
        """The gradient of the input from that of the output: a convolution with the flipped kernel."""
        if self._backward is None:
            turned_IOHW = self.weight_OIHW.flip(2, 3).transpose(0, 1).contiguous()
            self._backward = _Kernel(turned_IOHW, None, turned_IOHW.shape[-1] - 1 - self.padding)
        return self._backward(grad_BOHW, relu=False)


class _Kernel:
    """The layouts of one direction's weight, made on first use."""

    def __init__(self, weight_OIHW: Tensor, bias_O: Tensor | None, padding: int):
        self.weight_OIHW, self.bias_O, self.padding = weight_OIHW, bias_O, padding
        self._transformed: Tensor | None = None
        self._packed: dict[torch.Size, Tensor] = {}

    def __call__(self, x_BIHW: Tensor, relu: bool) -> Tensor:
        if min(self.weight_OIHW.shape[:2]) >= LEAST_CHANNELS and winograd.applies(
            x_BIHW, self.weight_OIHW, self.padding
        ):
            if self._transformed is None:
                self._transformed = winograd.kept_kernel(self.weight_OIHW)
            y_BOHW = winograd.filtered(x_BIHW, self._transformed, self.bias_O)
        elif can_pack(x_BIHW):
            return self._by_onednn(x_BIHW, relu)
        else:
            y_BOHW = F.conv2d(x_BIHW, self.weight_OIHW, self.bias_O, padding=self.padding)
        return y_BOHW.relu_() if relu else y_BOHW

    def _by_onednn(self, x_BIHW: Tensor, relu: bool) -> Tensor:
        padding = [self.padding] * 2
        if x_BIHW.shape not in self._packed:
            if len(self._packed) == MOST_SHAPES:
                self._packed.clear()
            self._packed[x_BIHW.shape] = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight_OIHW, padding, [1, 1], [1, 1], 1, list(x_BIHW.shape)
            )
        weight, then = self._packed[x_BIHW.shape], "relu" if relu else "none"
        y_BOHW: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_BIHW, weight, self.bias_O, padding, [1, 1], [1, 1], 1, then, [], ""
        )
        return y_BOHW


def can_pack(x_BIHW: Tensor) -> bool:
    """Whether torch supports convolutions of this type with weights in oneDNN's layout."""
    return (
        x_BIHW.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


class _Frozen(torch.autograd.Function):
    """The layer and its gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, layouts: _Layouts) -> Tensor:
        y = layouts.forward(x, relu=True)
        context.layouts = layouts
        context.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y = context.saved_tensors
        layouts: _Layouts = context.layouts
        if torch.is_grad_enabled():  # torch's gradient is differentiable
            grad_y = gradients[0] * (y > 0)
            return torch_gradients(grad_y, x, layouts.weight_OIHW, layouts.padding, [True, False, False])[0], None
        grad_y = torch.ops.aten.threshold_backward(gradients[0], y, 0)
        return layouts.input_gradient(grad_y.contiguous(memory_format=torch.channels_last)), None
