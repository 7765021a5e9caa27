"""Frozen convolutions against torch's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from stage1_tokenizer.kernels.cpu import winograd
from stage1_tokenizer.kernels.cpu.frozen import FastFrozenConv2d, can_pack
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.losses.lpips import load_lpips

LAST = torch.channels_last


def layer_and_input(
    kind: torch.dtype, inputs: int = 8, kernel: int = 3, size: int = 8
) -> tuple[FastFrozenConv2d, torch.Tensor]:
    torch.manual_seed(0)
    weight, bias = torch.randn(12, inputs, kernel, kernel, dtype=kind), torch.randn(12, dtype=kind)
    x = torch.randn(2, inputs, size, size + 4, dtype=kind).to(memory_format=LAST).requires_grad_()
    return FastFrozenConv2d(weight, bias, padding=kernel // 2), x


def assert_is_torchs(layer: FastFrozenConv2d, x: torch.Tensor) -> None:
    plain = F.conv2d(x, layer.weight, layer.bias, padding=layer.padding).relu()
    made = layer(x)
    assert "Frozen" in made.grad_fn.name()
    towards = torch.randn_like(plain)
    close = 1e-12 if x.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(made, plain, rtol=close, atol=close)
    gradients = [torch.autograd.grad(y, x, towards)[0] for y in (made, plain)]
    torch.testing.assert_close(*gradients, rtol=10 * close, atol=10 * close)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_values_and_gradients_are_torchs(kind: torch.dtype, kernel: int) -> None:
    assert_is_torchs(*layer_and_input(kind, kernel=kernel))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_values_and_gradients_of_fewer_products_are_torchs(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "LEAST_PIXELS", 1)
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.frozen.LEAST_CHANNELS", 8)
    assert_is_torchs(*layer_and_input(kind))


def test_every_shape_gets_its_layout_and_copies_get_their_own() -> None:
    layer, _ = layer_and_input(torch.float32)
    for size in (8, 5, 16, 8, 2):
        assert_is_torchs(layer, layer_and_input(torch.float32, size=size)[1])
    copied = copy.deepcopy(layer)
    assert copied.weight is not layer.weight
    assert_is_torchs(copied, layer_and_input(torch.float32)[1])
    assert torch.equal(pickle.loads(pickle.dumps(layer)).weight, layer.weight)
    assert can_pack(torch.zeros(1, 1, 1, 1)), "the pinned torch packs weights"


def test_the_gradient_has_a_gradient() -> None:
    layer, x = layer_and_input(torch.float64)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1).relu()
    (first,) = torch.autograd.grad(plain.square().sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(first.square().sum(), x)[0])


def test_lpips_follows_its_weights_to_another_type() -> None:
    lpips = load_lpips()
    install(lpips, "cpu")
    x, y = torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 3, 32, 32) * 2 - 1
    near, exact = lpips(x, y), copy.deepcopy(lpips).double()(x.double(), y.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(near, exact.float())
    torch.testing.assert_close(lpips(x, y), near)


def test_layers_that_do_not_fit_take_torchs_way() -> None:
    layer, x = layer_and_input(torch.float32)
    assert "Frozen" in layer(x.contiguous()).grad_fn.name(), "the kernel lays x out itself"
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    strided = FastFrozenConv2d(layer.weight, layer.bias, stride=2)
    assert "Frozen" not in strided(x).grad_fn.name()
    assert torch.equal(strided(x), F.conv2d(x, layer.weight, layer.bias, 2).relu())
