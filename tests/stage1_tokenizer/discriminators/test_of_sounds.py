"""Discriminators of sounds: beside plain forms of the published ones, odd clips, and a few hundred steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_tokenizer.config.losses import AdversarialConfig, LossConfig
from stage1_tokenizer.discriminators import build_discriminator
from stage1_tokenizer.discriminators.sound_layers import QUIET, leveled
from stage1_tokenizer.discriminators.verdict import Verdict, verdict_of
from stage1_tokenizer.discriminators.weight_norms import advance
from tests.stage1_tokenizer.sound_clips import clips

SMALL: dict[str, dict[str, Any]] = {
    "periods": {"periods": [2, 3, 5]},
    "bands": {"windows": [256, 64]},
    "stft": {"windows": [128, 32]},
}


def built(kind: str, in_channels: int = 1, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    options = {"channels": 4, "adaptive": False, **SMALL[kind], **settings}
    return build_discriminator(AdversarialConfig(discriminator=kind, **options), in_channels, 1).double()  # type: ignore[arg-type]


def convolved(layer: Any, h: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: int = 1) -> Tensor:
    """By the definition of weight norm: w = g·v/‖v‖."""
    raw = layer.parametrizations.weight
    size_O = raw.original1.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return F.conv2d(h, raw.original0 * raw.original1 / size_O, layer.bias, stride, padding, (dilation, 1))


def waves(length: int = 1237) -> Tensor:
    return torch.randn(2, 1, length, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 0.2 + 0.05


def test_periods_are_the_published_columns() -> None:
    """HiFi-GAN's and DAC's: reflected to whole rows, kernels (5, 1), stride 3, slope 0.1, no normalisation of DAC's."""
    x = waves()
    verdict = built("periods", peak=0.8)(x)
    centred = x - x.mean(-1, keepdim=True)
    level = 0.8 * centred / (centred.abs().max(-1, keepdim=True)[0] + 1e-9)
    for part, period, logits, features in zip(
        built("periods").parts, (2, 3, 5), verdict.logits, verdict.features, strict=True
    ):
        h = F.pad(level, (0, period - 1237 % period), mode="reflect").view(2, 1, -1, period)
        for layer, stride, feature in zip(part.layers, (3, 3, 3, 3, 1), features, strict=True):
            h = F.leaky_relu(convolved(layer, h, (stride, 1), (2, 0)), 0.1)
            torch.testing.assert_close(feature, h, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(logits, convolved(part.logit, h, (1, 1), (1, 0)), rtol=1e-6, atol=1e-9)
    widths = [layer.out_channels for layer in build_discriminator(published("periods"), 1, 1).parts[0].layers]
    assert widths == [32, 128, 512, 1024, 1024]


def published(kind: str) -> AdversarialConfig:
    return AdversarialConfig(discriminator=kind, channels=32, adaptive=False)  # type: ignore[arg-type]


def test_bands_are_dacs() -> None:
    """Reflected twice, as audiotools' match_stride does with centred frames, and the first and last two dropped."""
    x = waves()
    network = built("bands")
    verdict = network(x)
    for part, window, logits, features in zip(network.parts, (256, 64), verdict.logits, verdict.features, strict=True):
        hop = window // 4
        pad, right = (window - hop) // 2, -1237 % hop
        wave = F.pad(x, (pad, pad + right), mode="reflect")[:, 0]
        hann = torch.hann_window(window, dtype=torch.float64)
        z = torch.stft(wave, window, hop, window=hann, center=True, return_complex=True)[..., 2:-2]
        h_BCNF = torch.view_as_real(z).permute(0, 3, 2, 1)
        ends, found = [], list(features)
        bins = window // 2 + 1
        for (low, high), band in zip(
            [(0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)], part.layers, strict=True
        ):
            h = h_BCNF[..., int(low * bins) : int(high * bins)]
            for number, layer in enumerate(band):
                padding = (1, 1) if number == 4 else (1, 4)
                h = F.leaky_relu(convolved(layer, h, (1, 2) if 0 < number < 4 else (1, 1), padding), 0.1)
                torch.testing.assert_close(found.pop(0), h, rtol=1e-6, atol=1e-9)
            ends.append(h)
        torch.testing.assert_close(
            logits, convolved(part.logit, torch.cat(ends, -1), (1, 1), (1, 1)), rtol=1e-6, atol=1e-9
        )


def test_stft_is_encodecs() -> None:
    x = waves()
    network = built("stft")
    verdict = network(x)
    for part, window, logits, features in zip(network.parts, (128, 32), verdict.logits, verdict.features, strict=True):
        hann = torch.hann_window(window, dtype=torch.float64)
        z = torch.stft(x[:, 0], window, window // 4, window=hann, center=False, return_complex=True)
        h = torch.view_as_real(z / hann.square().sum().sqrt()).permute(0, 3, 2, 1)
        for number, (layer, dilation) in enumerate(zip(part.layers, (1, 1, 2, 4, 1), strict=True)):
            padding = (1, 1) if number == 4 else (dilation, 4)
            h = F.leaky_relu(convolved(layer, h, (1, 2) if 0 < number < 4 else (1, 1), padding, dilation), 0.3)
            torch.testing.assert_close(features[number], h, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(logits, convolved(part.logit, h, (1, 1), (1, 1)), rtol=1e-6, atol=1e-9)
    sizes = [part.window for part in build_discriminator(published("stft"), 1, 1).parts]
    assert sizes == [2048, 1024, 512, 256, 128]


@pytest.mark.parametrize("name", clips())
@pytest.mark.parametrize("kind", SMALL)
def test_odd_clips_have_finite_logits_and_gradients(kind: str, name: str) -> None:
    x = clips()[name].double().requires_grad_()
    verdict = built(kind, x.shape[1], peak=0.8)(x)
    loss = sum(map(torch.sum, verdict.logits)) + sum(one.abs().mean() for maps in verdict.features for one in maps)
    (gradient,) = torch.autograd.grad(loss, x)
    assert all(one.isfinite().all() for one in (*verdict.logits, gradient))
    assert len(x) == len(verdict.joined)


def test_a_silent_clip_is_not_scaled_up_without_bound() -> None:
    assert float(leveled(torch.full((1, 1, 9), 0.3), 0.8).abs().max()) < 1e-3  # rounding, not 0.8
    quiet = torch.tensor([[[0.0, QUIET / 10, 0.0, 0.0]]])
    assert float(leveled(quiet, 0.8).abs().max()) == pytest.approx(0.8 / 10 * 3 / 4)
    loud = leveled(waves(), 0.8)
    assert float(loud.mean().abs()) < 1e-9
    assert loud.abs().amax(-1).flatten().tolist() == pytest.approx([0.8, 0.8])
    assert torch.equal(leveled(quiet, 0.0), quiet)


@pytest.mark.parametrize("kind", SMALL)
def test_spectral_norm_takes_the_place_of_weight_norm(kind: str) -> None:
    network = built(kind, spectral_norm=True)
    advance(network)
    assert all(one.isfinite().all() for one in network(waves(300)).logits)
    names = dict(network.named_parameters())
    assert any(name.endswith("weight.original") for name in names)
    assert not any("original0" in name for name in names)


@pytest.mark.parametrize("kind", SMALL)
def test_steps_tell_noise_from_a_tone(kind: str) -> None:
    network = built(kind, peak=0.8).float()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.8, 0.99))
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(400) / 8000
    for _ in range({"periods": 100, "bands": 60, "stft": 200}[kind]):
        pitch_B11 = 100 + 900 * torch.rand(4, 1, 1, generator=generator)
        real, fake = torch.sin(6.283 * pitch_B11 * time), torch.randn(4, 1, 400, generator=generator)
        pairs = zip(network(real).logits, network(fake).logits, strict=True)
        loss = sum(((a - 1).square().mean() + b.square().mean()) / 2 for a, b in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * len(network(real).logits)


def test_what_one_part_says_stays_one_tensor() -> None:
    logits = torch.randn(2, 1, 3, 3)
    assert verdict_of(logits).joined is logits
    assert verdict_of(logits).features == ()
    several = Verdict((logits, torch.randn(2, 1, 5)))
    assert several.joined.shape == (2, 14)
    assert verdict_of(several) is several


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discriminator": "patch", "feature_matching": 2.0}, "feature_matching=2.0 is not supported with"),
        ({"discriminator": "stylegan", "peak": 0.8}, "peak=0.8 is not supported with"),
        ({"discriminator": "periods", "windows": [64]}, r"windows=\[64\] is not supported with"),
        ({"discriminator": "stft", "periods": [2]}, r"periods=\[2\] is not supported with"),
        ({"discriminator": "bands", "windows": [30]}, "must be multiples of 4 from 32 on"),
        ({"discriminator": "periods", "periods": [0]}, "one or more whole numbers from 1 on"),
        ({"discriminator": "periods", "peak": 2.0}, "peak=2.0 is out of range"),
        ({"discriminator": "stft", "feature_matching": -1.0}, "feature_matching=-1.0 is out of range"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(adversarial=AdversarialConfig(**settings))


def test_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"is for sounds, not for model\.spatial_dims=2"):
        build_discriminator(published("stft"), 3, 2)
