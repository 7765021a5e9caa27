# Made from stage1_tokenizer.convolution of vqloom 0.1.0, Apache-2.0: change that, not this.

from __future__ import annotations

from torch import nn
import torch
from torch import Tensor
from . import stage1_tokenizer_winograd as winograd
from .stage1_tokenizer_winograd import applies as _  # transformers copies files that are named like this
import torch.nn.functional as F
from typing import Any


LEAST_CHANNELS = 32
"""Fewer channels than this make matrix products too thin to be faster."""


LEAST_POSITIONS = 1024
"""With fewer positions in a batch, the work on the weights outweighs what is saved on the positions."""


WIDE = 64
"""Networks whose narrowest layer has this many channels gain from channels-last on a CPU."""


PHASES = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
"""[phase, tap, kernel]: which of a width-3 kernel's entries fall onto which of 2 neighbours once values are doubled."""


WIDE_PHASES = torch.stack([F.pad(PHASES[0], (0, 0, 0, 1)), F.pad(PHASES[1], (0, 0, 1, 0))])
"""The same for 3 neighbours, the value itself in the middle."""


class Conv2d(nn.Conv2d):
    """torch's convolution; on a CPU, in channels-last layout, with its own gradient to the weight."""

    def forward(self, x_BIHW: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H', W')."""
        if isinstance(self.padding, str) or self.stride != (1, 1):
            return super().forward(x_BIHW)
        return convolved(x_BIHW, self.weight, self.bias, self.padding[0])


CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: Conv2d, 3: nn.Conv3d}
"""The convolution class for each number of spatial dimensions."""


def convolution(
    dims: int, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
) -> Convolution:
    """A convolution over `dims` spatial axes."""
    return CONVOLUTIONS[dims](inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)


def laid_out(h: Tensor, width: int) -> Tensor:
    """h in the fastest layout for what follows: channels-last for pictures on a CPU, in layers of `width` 64 or more.

    Weights stay as they are. Narrower layers were as fast, or faster, in the other layout.
    """
    if h.ndim != 4 or h.device.type != "cpu" or width < WIDE:
        return h
    return h.contiguous(memory_format=torch.channels_last)


def doubled(x: Tensor, layer: Convolution) -> Tensor:
    """`layer`, of width 3, on x with each value repeated twice along each spatial axis: (B, I, H, W) to (B, O, 2H, 2W).

    For pictures on a CPU the doubled x is never made: each of the 4 phases of the result is a convolution of width 2 on
    x itself, whose kernel sums the entries that meet the same value. That is 4 products instead of 9 for each output,
    or 2.25 where the phases, as kernels of width 3, are left to stage1_tokenizer.winograd.
    """
    if not isinstance(layer, Conv2d) or not _worthwhile(x, layer.weight):
        return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    inputs, outputs = layer.in_channels, layer.out_channels
    if winograd.applies(x, layer.weight, 1):
        phases = WIDE_PHASES.to(x.dtype)
        kernel = torch.einsum("oiyx,apy,bqx->oabipq", layer.weight, phases, phases).reshape(4 * outputs, inputs, 3, 3)
        bias = None if layer.bias is None else layer.bias.repeat_interleave(4)
        return F.pixel_shuffle(_Correlation.apply(x, kernel, bias, 1), 2)
    phases = PHASES.to(x.dtype)
    kernel = torch.einsum("oiyx,apy,bqx->aboipq", layer.weight, phases, phases).reshape(4 * outputs, inputs, 2, 2)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    bias = None if layer.bias is None else layer.bias.repeat(4)
    return _Interleave.apply(_Correlation.apply(x, kernel, bias, 1))


def depth_to_space(h_BCHW: Tensor, factor: int) -> Tensor:
    """Channels to pixels: (B, f·f·C, H, W) to (B, C, f·H, f·W); a pixel's row and column vary slower than C."""
    dims = h_BCHW.ndim - 2
    parts = h_BCHW.unflatten(1, (*(factor,) * dims, -1))  # B, one axis of length f for each spatial one, C, H, W
    order = [0, dims + 1]
    for axis in range(dims):
        order += [dims + 2 + axis, 1 + axis]
    sizes = [factor * size for size in h_BCHW.shape[2:]]
    return parts.permute(order).reshape(len(h_BCHW), -1, *sizes)


class _Interleave(torch.autograd.Function):
    """Phases (B, 4·O, H+1, W+1) to a picture (B, O, 2H, 2W): phase (a, b) gives rows a::2 and columns b::2."""

    @staticmethod
    def forward(context: Any, every: Tensor) -> Tensor:
        batch, height, width = len(every), every.shape[2] - 1, every.shape[3] - 1
        phases = every.unflatten(1, (2, 2, -1))
        picture = every.new_empty(batch, 2 * height, 2 * width, phases.shape[3]).permute(0, 3, 1, 2)
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            picture[:, :, a::2, b::2] = phases[:, a, b, :, a : a + height, b : b + width]
        return picture

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        picture = gradients[0]
        (batch, outputs), (height, width) = picture.shape[:2], (size // 2 for size in picture.shape[2:])
        every = picture.new_zeros(batch, height + 1, width + 1, 4 * outputs).permute(0, 3, 1, 2)
        phases = every.unflatten(1, (2, 2, -1))
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            phases[:, a, b, :, a : a + height, b : b + width] = picture[:, :, a::2, b::2]
        return every


def own_forms_apply(x_BIHW: Tensor, weight_OIHW: Tensor) -> bool:
    """Whether the forms of this module can be taken: a CPU, full precision, channels-last, nothing compiled."""
    return (
        x_BIHW.device.type == "cpu"
        and x_BIHW.dtype == weight_OIHW.dtype
        and x_BIHW.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x_BIHW.is_contiguous(memory_format=torch.channels_last)
    )


def _worthwhile(x_BIHW: Tensor, weight_OIHW: Tensor) -> bool:
    """Whether they are faster, too."""
    large = min(weight_OIHW.shape[:2]) >= LEAST_CHANNELS and x_BIHW.numel() >= LEAST_POSITIONS * x_BIHW.shape[1]
    return large and own_forms_apply(x_BIHW, weight_OIHW)


def convolved(x_BIHW: Tensor, weight_OIHW: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """The convolution of stride 1: (B, I, H, W) to (B, O, H', W'), by this module's forms where they apply."""
    if _worthwhile(x_BIHW, weight_OIHW):
        return _Correlation.apply(x_BIHW, weight_OIHW, bias, padding)
    return F.conv2d(x_BIHW, weight_OIHW, bias, padding=padding)


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
        towards = gradients[0].contiguous(memory_format=torch.channels_last)
        padding = context.padding
        wanted = list(context.needs_input_grad[:3])
        fewer = winograd.applies(x, weight, padding)
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted: torch's own has one
            return *torchs_gradients(towards, x, weight, padding, wanted), None
        found: list[Tensor | None] = [None, None, towards.sum((0, 2, 3)) if wanted[2] else None]
        if wanted[0] and fewer:
            found[0] = winograd.input_gradient(towards, weight)
        elif wanted[0]:
            found[0] = torchs_gradients(towards, x, weight, padding, [True, False, False])[0]
        if wanted[1]:
            found[1] = winograd.weight_gradient(x, towards) if fewer else weight_gradient(x, towards, padding)
        return *found, None


def torchs_gradients(
    towards: Tensor, x: Tensor, weight: Tensor, padding: int, wanted: list[bool]
) -> tuple[Tensor | None, ...]:
    """torch's own gradients to x, weight and bias, as far as `wanted`; they have gradients themselves."""
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        towards, x, weight, [len(weight)], [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, wanted
    )
    return gradients


def weight_gradient(x_BIHW: Tensor, towards_BOHW: Tensor, padding: int) -> Tensor:
    """Gradient (O, I, k, k) to a convolution's weight (stride 1), from its input and the gradient at its output.

    Both are laid out as rows of channels, the gradient padded to the width of the padded input. Then the positions that
    a kernel entry pairs lie at a constant distance, and each of the k² entries is one product of two plain matrices.
    """
    outputs, width = towards_BOHW.shape[1], x_BIHW.shape[3] + 2 * padding
    size = width - towards_BOHW.shape[3] + 1
    x_NI = F.pad(x_BIHW.permute(0, 2, 3, 1), (0, 0, *[padding] * 4)).view(-1, x_BIHW.shape[1])
    towards_NO = F.pad(towards_BOHW.permute(0, 2, 3, 1), (0, 0, 0, size - 1, 0, size - 1)).view(-1, outputs)
    count = len(x_NI) - (size - 1) * (width + 1)
    towards_ON = towards_NO[:count].T
    result = x_NI.new_empty(size, size, outputs, x_NI.shape[1])
    for row in range(size):
        for column in range(size):
            first = row * width + column
            torch.mm(towards_ON, x_NI[first : first + count], out=result[row, column])
    return result.permute(2, 3, 0, 1)
