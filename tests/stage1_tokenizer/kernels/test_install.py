"""Kernels in networks: the same names and numbers, and networks that stay copyable, picklable and parametrizable."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stage1_tokenizer.config.training import AdversarialConfig, LossConfig, ModelConfig, PerceptualConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.kernels import install as installing
from stage1_tokenizer.kernels.cpu.convolution import FastConv2d
from stage1_tokenizer.kernels.cpu.frozen import FastFrozenConv2d
from stage1_tokenizer.kernels.cpu.group_norm import FastNorm
from stage1_tokenizer.kernels.install import install
from stage1_tokenizer.losses.lpips import load_lpips
from stage1_tokenizer.tokenizer.model import Tokenizer
from tests.stage1_tokenizer.small_backbones import BACKBONES
from tests.stage1_tokenizer.training.textbook import one_forward

WIDE = replace(BACKBONES["conv"], channels=64, channel_multipliers=[1, 1], z_channels=32)
PATCH = AdversarialConfig(channels=64, layers=2)


def built(config: ModelConfig = WIDE, adversarial: AdversarialConfig = PATCH) -> tuple[Tokenizer, nn.Module]:
    torch.manual_seed(0)
    return Tokenizer(config), build_discriminator(adversarial, config.in_channels)


def kinds(module: nn.Module) -> set[type[nn.Module]]:
    return {type(part) for part in module.modules()}


def test_models_are_plain_until_kernels_are_installed() -> None:
    tokenizer, discriminator = built()
    lpips = load_lpips("alex")
    names = [list(module.state_dict()) for module in (tokenizer, discriminator)]
    for module in (tokenizer, discriminator, lpips):
        assert not any("kernels" in kind.__module__ for kind in kinds(module))
        install(module, "cpu")
    assert {FastConv2d, FastNorm} <= kinds(tokenizer)
    assert FastFrozenConv2d in kinds(lpips)
    assert [list(module.state_dict()) for module in (tokenizer, discriminator)] == names
    before = copy.deepcopy(tokenizer)
    install(tokenizer, "cpu")
    assert len(tokenizer.encoder.conv_in._forward_hooks) == len(before.encoder.conv_in._forward_hooks) == 1


def test_no_kernels_for_other_devices_or_in_quantizers() -> None:
    tokenizer, _ = built(replace(WIDE, quantizer=replace(WIDE.quantizer, kind="multiscale", scales=[1, 2, 8])))
    install(tokenizer, "cuda")
    install(None, "cpu")
    assert FastConv2d not in kinds(tokenizer)
    install(tokenizer, "cpu")
    assert FastConv2d in kinds(tokenizer) and FastConv2d not in kinds(tokenizer.quantizer)


@pytest.mark.parametrize("dims", [1, 3])
def test_networks_without_2d_convolutions_stay_plain(dims: int) -> None:
    config = replace(WIDE, spatial_dims=dims, channels=8, in_channels=1)
    tokenizer = Tokenizer(config)
    discriminator = build_discriminator(PATCH, 1, dims)
    for module in (tokenizer, discriminator):
        install(module, "cpu")
        assert FastConv2d not in kinds(module)


def test_layout_carries_through_wide_networks_alone() -> None:
    x = torch.randn(2, 3, 16, 24)
    for channels, wide in ((64, True), (32, False)):
        tokenizer, discriminator = built(replace(WIDE, channels=channels), replace(PATCH, channels=channels))
        install(tokenizer, "cpu")
        install(discriminator, "cpu")
        z = tokenizer.encoder(x)
        features = tokenizer.decoder.features(z.contiguous())
        hidden = discriminator.main[:2](x)
        for h in (z, features, hidden):
            assert h.is_contiguous(memory_format=torch.channels_last) == wide


def gradients(module: nn.Module, y: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad((y * torch.randn(y.shape)).sum(), list(module.parameters())))


@pytest.mark.parametrize("name", ["conv", "magvit2", "maskgit"])
def test_networks_compute_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.group_norm.LEAST_VALUES", 1)
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.convolution.LEAST_POSITIONS", 1)
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.convolution.LEAST_CHANNELS", 32)
    tokenizer, discriminator = built(replace(BACKBONES[name], channels=64))
    x = torch.randn(2, 3, 32, 32)
    for module in (tokenizer.encoder, discriminator):
        plain = copy.deepcopy(module)
        install(module, "cpu")
        ours, theirs = module(x), plain(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        for mine, other in zip(gradients(module, ours), gradients(plain, theirs), strict=True):
            assert float((mine - other).norm()) <= 1e-4 * float(other.norm()) + 1e-5


def test_copies_and_pickles_keep_the_kernels() -> None:
    tokenizer, _ = built()
    install(tokenizer, "cpu")
    file = io.BytesIO()
    torch.save(tokenizer, file)
    file.seek(0)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = tokenizer.eval().reconstruct(x)[0]
    for other in (copy.deepcopy(tokenizer), torch.load(file, weights_only=False)):
        assert kinds(other) == kinds(tokenizer)
        assert torch.equal(other.eval().reconstruct(x)[0], expected)


def test_parametrized_layers_keep_their_weights_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.convolution.LEAST_POSITIONS", 1)
    monkeypatch.setattr("stage1_tokenizer.kernels.cpu.convolution.LEAST_CHANNELS", 32)
    stylegan = AdversarialConfig(discriminator="stylegan", channels=64, layers=2, group=1, spectral_norm=True)
    _, discriminator = built(adversarial=stylegan)
    plain = copy.deepcopy(discriminator)
    install(discriminator, "cpu")
    fast = [part for part in discriminator.modules() if isinstance(part, FastConv2d)]
    assert fast and all(parametrize.is_parametrized(layer, "weight") for layer in fast)
    x = torch.randn(2, 3, 32, 32)
    y = copy.deepcopy(discriminator)(x)
    assert "Correlation" in fast[0](torch.randn(2, 64, 32, 32).to(memory_format=torch.channels_last)).grad_fn.name()
    torch.testing.assert_close(y, plain(x), rtol=1e-4, atol=1e-5)
    assert list(discriminator.state_dict()) == list(plain.state_dict())


def losses(tokenizer: Tokenizer, discriminator: nn.Module, perceptual: Any) -> list[dict[str, float]]:
    """Of 8 steps in float64: in float32, Adam and the adversarial game make more and more of rounding."""
    config = LossConfig(perceptual=PerceptualConfig(net="alex"), adversarial=replace(PATCH, start=3))
    step = one_forward(config, perceptual)
    optimizers = [torch.optim.AdamW(module.parameters(), 1e-3) for module in (tokenizer.train(), discriminator.train())]
    generator = torch.Generator().manual_seed(2)
    rows = []
    for module in (tokenizer, discriminator, perceptual):
        module.double()
    for number in range(8):
        x = nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1, (64, 64), mode="bilinear")
        result = step(tokenizer, [discriminator], x.double(), number)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        rows.append({name: float(value) for name, value in result.metrics.items() if name.startswith("loss/")})
    return rows


def test_training_with_kernels_has_the_losses_of_training_without() -> None:
    tokenizer, discriminator = built()
    lpips = load_lpips("alex")
    plain = losses(copy.deepcopy(tokenizer), copy.deepcopy(discriminator), copy.deepcopy(lpips))
    for module in (tokenizer, discriminator, lpips):
        install(module, "cpu")
    for ours, theirs in zip(losses(tokenizer, discriminator, lpips), plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_what_is_installed_is_a_layer_below_its_kernel() -> None:
    assert all(issubclass(fast, layer) for layer, fast in installing.CPU.items())
