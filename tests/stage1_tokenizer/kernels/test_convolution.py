"""Convolution kernels for CPUs against torch's convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.kernels.cpu import convolution, winograd
from stage1_tokenizer.kernels.cpu.convolution import FastConv2d

LAST = torch.channels_last


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forms apply to these small pictures too."""
    monkeypatch.setattr(convolution, "LEAST_CHANNELS", 16)
    monkeypatch.setattr(convolution, "LEAST_POSITIONS", 1)


def gradients(result: Tensor, *sources: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return [result.detach(), *torch.autograd.grad((result * torch.randn(result.shape)).sum(), sources)]


def assert_all_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 12), (5, 4, 4), (3, 20, 8)])
def test_fewer_products_give_the_same_convolution(
    batch: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "LEAST_PIXELS", 1)
    monkeypatch.setattr(winograd, "PIECE", 128)  # several pieces, rows and pictures apart
    monkeypatch.setattr(winograd, "LEAST_TILES", 3)
    x = torch.randn(batch, 16, height, width, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    layer = FastConv2d(16, 24, 3, padding=1).double()
    assert winograd.applies(x, layer.weight, 1)
    sources = (x, layer.weight, layer.bias)
    assert_all_close(gradients(layer(x), *sources), gradients(F.conv2d(*sources, padding=1), *sources))


def test_fewer_products_stay_exact_to_float32() -> None:
    x = torch.randn(1, 64, 32, 32).to(memory_format=LAST)
    weight, towards = torch.randn(64, 64, 3, 3), torch.randn(1, 64, 32, 32).to(memory_format=LAST)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    gradient = torch.nn.grad.conv2d_weight(x.double(), weight.shape, towards.double(), padding=1)
    for found, expected in (
        (winograd.correlate(x, weight, None), exact),
        (winograd.weight_gradient(x, towards), gradient),
    ):
        assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_gradients_of_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    layer = FastConv2d(16, 16, 3, padding=1).double()

    def penalty(result: Tensor) -> list[Tensor]:
        (towards,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        return gradients(towards, layer.weight)

    assert_all_close(penalty(layer(x)), penalty(F.conv2d(x, layer.weight, layer.bias, padding=1)))


def test_elsewhere_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels, the other layout, sides that 4 does not divide and mixed precision."""
    monkeypatch.setattr(winograd, "correlate", None)
    monkeypatch.setattr(winograd, "LEAST_PIXELS", 1)
    x = torch.randn(2, 16, 8, 8).to(memory_format=LAST)
    layer = FastConv2d(16, 16, 3, padding=1)
    odd = x[..., :7].contiguous(memory_format=LAST)
    for result in (FastConv2d(16, 4, 3, padding=1)(x), layer(x.contiguous()), layer(odd)):
        result.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.bfloat16
    with pytest.raises(TypeError):
        layer(x)


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": "same"}, {"padding": (1, 0)}, {"kernel_size": 1}],
)
def test_other_layers_are_left_alone(options: dict[str, Any]) -> None:
    assert FastConv2d.takes(nn.Conv2d(16, 16, 3, padding=1))
    assert not FastConv2d.takes(nn.Conv2d(16, 16, **{"kernel_size": 3, "padding": 1, **options}))
