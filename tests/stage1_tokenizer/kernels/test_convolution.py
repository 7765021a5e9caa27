"""Convolution kernels for CPUs against torch's convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.kernels.cpu import convolution, winograd
from stage1_tokenizer.kernels.cpu.convolution import FastConv2d, FastUpsample, weight_gradient

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


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (2, 1), (3, 1), (3, 0), (4, 1)])
def test_own_gradients_are_torchs(kernel: int, padding: int) -> None:
    x = torch.randn(2, 16, 6, 9, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    layer = FastConv2d(16, 24, kernel, padding=padding).double()
    ours = layer(x)
    assert "Correlation" in ours.grad_fn.name()
    sources = (x, layer.weight, layer.bias)
    assert_all_close(gradients(ours, *sources), gradients(F.conv2d(*sources, padding=padding), *sources))


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
    for found, expected in (
        (winograd.correlate(x, weight, None), exact),
        (winograd.weight_gradient(x, towards), weight_gradient(x.double(), towards.double(), 1)),
    ):
        assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_gradients_of_gradients_are_torchs() -> None:
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    layer = FastConv2d(16, 16, 3, padding=1).double()

    def penalty(result: Tensor) -> list[Tensor]:
        (towards,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        return gradients(towards, layer.weight)

    assert_all_close(penalty(layer(x)), penalty(F.conv2d(x, layer.weight, layer.bias, padding=1)))


@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 8)])
def test_upsample_is_interpolation_and_convolution(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel for sides that 4 divides, else by torch."""
    monkeypatch.setattr(winograd, "LEAST_PIXELS", 1)
    x = torch.randn(2, 16, height, width, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    layer = FastUpsample(2, 16).double()
    sources = (x, layer.conv.weight, layer.conv.bias)
    theirs = F.conv2d(F.interpolate(x, scale_factor=2.0), layer.conv.weight, layer.conv.bias, padding=1)
    ours = layer(x)
    assert ("PixelShuffle" in ours.grad_fn.name()) == (height % 4 == 0)
    assert ours.is_contiguous(memory_format=LAST)
    assert_all_close(gradients(ours, *sources), gradients(theirs, *sources))


def test_elsewhere_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels, the other layout, strides and mixed precision take torch's own way."""
    monkeypatch.setattr(convolution, "weight_gradient", None)
    x = torch.randn(2, 16, 8, 8).to(memory_format=LAST)
    FastConv2d(16, 4, 3, padding=1)(x).sum().backward()
    for options in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": "same"}, {"padding": (1, 0)}):
        assert not FastConv2d.takes(nn.Conv2d(16, 16, 3, **options))  # type: ignore[arg-type]
    FastConv2d(16, 16, 3)(x.contiguous()).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        result = FastConv2d(16, 16, 3)(x)
    assert result.dtype == torch.bfloat16
    result.sum().backward()


def test_weight_gradient_by_its_definition() -> None:
    x, towards = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(2, 2, 5, 4, dtype=torch.float64)
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.stack(
        [
            torch.einsum("bohw,bihw->oi", towards, padded[:, :, row : row + 5, column : column + 4])
            for row in range(3)
            for column in range(3)
        ],
        dim=2,
    ).view(2, 3, 3, 3)
    torch.testing.assert_close(weight_gradient(x, towards, 1), expected)
