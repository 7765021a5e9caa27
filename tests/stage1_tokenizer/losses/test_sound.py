"""Terms of sounds beside second implementations, written from the published definitions or by others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, spectrogram

from launch.command.cli import UserError
from stage1_tokenizer.config.losses import LossConfig
from stage1_tokenizer.layers.spectrum import mel_filters, reflected, spectrum
from stage1_tokenizer.losses.sound import MelTerm, StftTerm, WaveformTerm
from stage1_tokenizer.losses.spectral import mel_distance
from stage1_tokenizer.losses.term import further_terms
from stage1_tokenizer.media import sounds
from tests.stage1_tokenizer.sound_clips import clips

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")

RATE = 16_000
FAR = pytest.approx


def pair(length: int = 5000, batch: int = 3, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, length, generator=generator, dtype=torch.float64) * 0.2
    return (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(-1, 1), x


def magnitudes(x_T: np.ndarray, window: int, *, power: float = 1.0, center: bool = True) -> np.ndarray:
    """|STFT|^power (F, N) of transformers' numpy code, hop a quarter, periodic Hann."""
    hann = np.hanning(window + 1)[:-1]
    return spectrogram(x_T, hann, window, window // 4, power=power, center=center, pad_mode="reflect", dtype=np.float64)


@pytest.mark.parametrize(("scale", "norm", "low"), [("slaney", "slaney", 0.0), ("htk", None, 64.0)])
@pytest.mark.parametrize(("rate", "window", "mels"), [(16_000, 512, 80), (44_100, 2048, 320), (8000, 32, 5)])
def test_mel_filters_are_those_of_transformers(
    scale: Any, norm: str | None, low: float, rate: int, window: int, mels: int
) -> None:
    theirs = mel_filter_bank(window // 2 + 1, mels, low, rate / 2, rate, norm=norm, mel_scale=scale)
    ours = mel_filters(rate, window, mels, low=low, scale=scale)
    np.testing.assert_allclose(ours.numpy(), theirs.T, rtol=1e-9, atol=1e-12)


def test_dac_mel_distance_is_its_definition() -> None:
    y, x = pair()
    expected = np.zeros(3)
    for window, mels in zip([32, 64, 128, 256, 512, 1024, 2048], [5, 10, 20, 40, 80, 160, 320], strict=True):
        bank = mel_filter_bank(window // 2 + 1, mels, 0, RATE / 2, RATE, norm="slaney", mel_scale="slaney").T
        for row in range(3):
            logs = [np.log10(np.maximum(bank @ magnitudes(one[row, 0].numpy(), window), 1e-5)) for one in (y, x)]
            expected[row] += np.abs(logs[0] - logs[1]).mean()
    np.testing.assert_allclose(mel_distance(y, x, RATE).numpy(), expected, rtol=1e-6)
    float32 = MelTerm(RATE, weight=15)(y.float(), x.float())
    assert float(float32) == FAR(expected.mean(), rel=1e-5)


def test_encodec_mel_distance_is_its_definition() -> None:
    y, x = pair(5003)
    expected = 0.0
    for power in range(6, 11):
        window, hop = 2**power, 2**power // 4
        bank = mel_filter_bank(window // 2 + 1, 64, 64, RATE / 2, RATE, norm=None, mel_scale="htk").T
        hann = np.hanning(window + 1)[:-1]
        for row in range(3):
            mels = []
            for one in (y, x):
                wave = np.pad(one[row, 0].numpy(), (window - hop) // 2, mode="reflect")
                frames = math.ceil((len(wave) - window) / hop + 1)
                wave = np.pad(wave, (0, (frames - 1) * hop + window - len(wave)))
                mels.append(bank @ magnitudes(wave, window, power=2.0, center=False) / (hann**2).sum())
            logs = [np.log10(1e-5 + mel) for mel in mels]
            expected += (np.abs(mels[0] - mels[1]).mean() + ((logs[0] - logs[1]) ** 2).mean()) / 3
    expected /= 5 * 2
    assert float(mel_distance(y, x, RATE, "encodec").mean()) == FAR(expected, rel=1e-6)
    assert float(MelTerm(RATE, definition="encodec")(y.float(), x.float())) == FAR(expected, rel=1e-5)


def test_dac_stft_distance_is_its_definition() -> None:
    y, x = pair(channels=2)
    expected = 0.0
    for window in (2048, 512):
        values: list[float] = []
        for row in range(3):
            for channel in range(2):
                both = [magnitudes(one[row, channel].numpy(), window) for one in (y, x)]
                logs = [np.log10(np.maximum(one, 1e-5) ** 2) for one in both]
                values.append(np.abs(logs[0] - logs[1]).mean() + np.abs(both[0] - both[1]).mean())
        expected += float(np.mean(values))
    assert float(StftTerm()(y, x)) == FAR(expected, rel=1e-6)


def test_multi_resolution_stft_equals_auralosss() -> None:
    freq = pytest.importorskip("auraloss.freq")
    y, x = (one.float() for one in pair())
    sizes = {"fft_sizes": [1024, 2048, 512], "hop_sizes": [120, 240, 50], "win_lengths": [600, 1200, 240]}
    theirs = freq.MultiResolutionSTFTLoss(**sizes, w_sc=0.5, w_log_mag=0.5, w_lin_mag=0.0)
    for row in range(3):  # theirs takes the spectral convergence of a whole batch
        one = slice(row, row + 1)
        expected = float(theirs(y[one], x[one]))
        assert float(StftTerm(definition="encodec")(y[one], x[one])) == FAR(expected, rel=1e-5)


def test_si_sdr_and_waveform_equal_auralosss() -> None:
    time = pytest.importorskip("auraloss.time")
    from stage1_tokenizer.measuring.sound_metrics import si_sdr

    y, x = pair()
    assert float(si_sdr(y, x, RATE).mean()) == FAR(-float(time.SISDRLoss()(y, x)), rel=1e-5)
    assert float(WaveformTerm()(y, x)) == float((y - x).abs().mean())
    assert float(WaveformTerm(distance="l2")(y, x)) == FAR(float((y - x).square().mean()))


TERMS = [
    WaveformTerm(),
    *(MelTerm(RATE, definition=name) for name in ("dac", "encodec")),  # type: ignore[arg-type]
    *(StftTerm(definition=name) for name in ("dac", "encodec")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("name", clips())
@pytest.mark.parametrize("term", TERMS, ids=lambda term: f"{term.name}-{getattr(term, 'definition', '')}")
def test_values_and_gradients_are_finite_for_odd_clips(term: Any, name: str) -> None:
    x = clips()[name]
    assert float(term(x, x)) == 0
    for y in (torch.zeros_like(x), x, (x + 1e-3).clamp(-1, 1), -x):
        value, gradient = term.at(y, x)
        assert value.isfinite()
        assert gradient.isfinite().all()
    value, gradient = term.at(x * 0.5 + 0.01, x)
    assert value > 0
    assert gradient.abs().sum() > 0


def test_a_clip_shorter_than_a_window_has_a_frame() -> None:
    x = torch.arange(1.0, 4).view(1, 1, 3)
    assert reflected(x, 1, 1).tolist() == [[[2, 1, 2, 3, 2]]]
    assert reflected(x, 4, 4).shape == (1, 1, 11)
    assert spectrum(x, 64).shape[-1] == 1
    assert spectrum(x, 64, pad=(0, 0)).shape == (1, 1, 33, 1)


def test_terms_are_chosen_by_their_settings() -> None:
    settings = LossConfig(terms={"waveform": 0.1, "mel": {"weight": 15, "windows": [32, 64], "mels": 8}, "stft": 0})
    mel = sounds.terms(settings, sounds.SoundConfig(sample_rate=8000))
    assert [(term.name, term.weight) for term in mel] == [("waveform", 0.1), ("mel", 15)]
    assert (mel[1].sample_rate, mel[1].windows, mel[1].mels) == (8000, [32, 64], [8, 8])  # type: ignore[attr-defined]
    for wrong, message in (
        ({"mel": {"definition": "mp3"}}, "definition=mp3 is unknown: choose one of dac, encodec"),
        ({"mel": {"windows": [30]}}, "must be multiples of 4"),
        ({"mel": {"windows": [32, 64], "mels": [5]}}, "one number of bands"),
        ({"mel": {"sample_rate": 3}}, "can't be used"),
        ({"stft": {"windows": []}}, "must be multiples of 4"),
        ({"waveform": {"distance": "l3"}}, "distance=l3 is unknown"),
        ({"loudness": 1}, r"loss\.terms\.loudness is unknown \(mel, stft, waveform\)"),
    ):
        with pytest.raises(UserError, match=message):
            sounds.terms(LossConfig(terms=wrong), sounds.SoundConfig())
    assert further_terms({}, {}) == []
