"""Products that stay IEEE float32 within a compiled graph, which can't change torch's settings in its middle.

Each is an operator that sets them while it runs, for its gradients too. Importing this module lets `product` and
`widened` of stage1_tokenizer.layers.precision take them where they are compiled; uncompiled they are plain torch.

Legend: B batch, I inputs, O outputs, H W size; M, N, P rows and columns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_tokenizer.layers.precision import EXACT, float32_as


@torch.library.custom_op("vqloom::ieee_product", mutates_args=())
def ieee_product(a_MN: Tensor, b_NP: Tensor) -> Tensor:
    """(M, N) times (N, P)."""
    with float32_as("ieee"):
        return a_MN @ b_NP


@ieee_product.register_fake
def _(a_MN: Tensor, b_NP: Tensor) -> Tensor:
    return a_MN.new_empty(a_MN.shape[0], b_NP.shape[1])


def _keep_both(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _product_backward(context: Any, grad_MP: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a_MN, b_NP = context.saved_tensors
    to_a, to_b = context.needs_input_grad
    return ieee_product(grad_MP, b_NP.T) if to_a else None, ieee_product(a_MN.T, grad_MP) if to_b else None


ieee_product.register_autograd(_product_backward, setup_context=_keep_both)


@torch.library.custom_op("vqloom::ieee_convolution", mutates_args=())
def ieee_convolution(x_BIHW: Tensor, weight_OIHW: Tensor) -> Tensor:
    """A 2-D convolution with stride 1, without bias, that keeps the size: kernels have odd sides."""
    with float32_as("ieee"):
        return F.conv2d(x_BIHW, weight_OIHW, padding=_same(weight_OIHW)).contiguous()


@ieee_convolution.register_fake
def _(x_BIHW: Tensor, weight_OIHW: Tensor) -> Tensor:
    return x_BIHW.new_empty(x_BIHW.shape[0], weight_OIHW.shape[0], *x_BIHW.shape[2:])


@torch.library.custom_op("vqloom::ieee_convolution_backward", mutates_args=())
def _gradients(grad_BOHW: Tensor, x_BIHW: Tensor, weight_OIHW: Tensor) -> tuple[Tensor, Tensor]:
    with float32_as("ieee"):
        to_x, to_weight, _ = torch.ops.aten.convolution_backward(
            *(grad_BOHW, x_BIHW, weight_OIHW, None, [1, 1], _same(weight_OIHW), [1, 1], False, [0, 0], 1),
            [True, True, False],
        )
        return to_x.contiguous(), to_weight.contiguous()


@_gradients.register_fake
def _(grad_BOHW: Tensor, x_BIHW: Tensor, weight_OIHW: Tensor) -> tuple[Tensor, Tensor]:
    return x_BIHW.new_empty(x_BIHW.shape), weight_OIHW.new_empty(weight_OIHW.shape)


def _convolution_backward(context: Any, grad_BOHW: Tensor) -> tuple[Tensor, Tensor]:
    return _gradients(grad_BOHW, *context.saved_tensors)


ieee_convolution.register_autograd(_convolution_backward, setup_context=_keep_both)


def _same(weight_OIHW: Tensor) -> list[int]:
    return [side // 2 for side in weight_OIHW.shape[2:]]


EXACT.update(product=ieee_product, convolution=ieee_convolution)
