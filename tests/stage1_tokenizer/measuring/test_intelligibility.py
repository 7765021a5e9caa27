"""STOI and ESTOI beside pystoi."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stage1_tokenizer.measuring.intelligibility import _filter, intelligibility, resampled


def speech_like(rate: int, seconds: float = 1.6) -> np.ndarray:
    """Noise in bands whose loudness changes a few times a second, with a pause in it."""
    random = np.random.default_rng(0)
    time = np.arange(int(rate * seconds)) / rate
    wave = np.zeros(len(time))
    for pitch in (180.0, 420.0, 900.0, 1800.0, 3000.0):
        loud = np.abs(np.sin(2 * np.pi * (1.5 + pitch / 1000) * time + pitch))
        wave += loud * np.sin(2 * np.pi * pitch * time + 3 * np.sin(2 * np.pi * 5 * time))
    wave += 0.1 * random.standard_normal(len(time))
    wave[int(0.5 * rate) : int(0.7 * rate)] = 0
    return 0.2 * wave


@pytest.mark.parametrize("rate", [10_000, 8000, 16_000, 44_100])
def test_both_equal_pystois(rate: int) -> None:
    stoi = pytest.importorskip("pystoi").stoi
    x_T = speech_like(rate)
    noise_T = np.random.default_rng(1).standard_normal(len(x_T))
    before = 1.01
    for level in (0.01, 0.1, 1.0):
        y_T = x_T + level * noise_T
        ours = intelligibility(x_T, y_T, rate)
        assert ours[0] == pytest.approx(stoi(x_T, y_T, rate), abs=1e-6)
        assert ours[1] == pytest.approx(stoi(x_T, y_T, rate, extended=True), abs=1e-5)
        assert before > ours[0] > ours[1]
        before = ours[0]


@pytest.mark.parametrize(("rate", "to"), [(8000, 10_000), (16_000, 10_000), (44_100, 10_000), (24_000, 16_000)])
def test_resampling_equals_scipys_polyphase_form(rate: int, to: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    common = math.gcd(rate, to)
    up, down = to // common, rate // common
    for length in (1, 2, 777, 5000):
        x_T = np.random.default_rng(0).standard_normal(length)
        expected = signal.resample_poly(x_T, up, down, window=_filter(up, down) / up)
        np.testing.assert_allclose(resampled(x_T, rate, to), expected, rtol=1e-9, atol=1e-12)


def test_an_equal_sound_has_one_and_a_short_one_none() -> None:
    x_T = speech_like(8000)
    assert intelligibility(x_T, x_T, 8000) == pytest.approx((1.0, 1.0))
    for short in (1, 300, 3000):  # at most 3,750 samples at 10 kHz: less than 30 frames
        assert all(math.isnan(value) for value in intelligibility(x_T[:short], x_T[:short], 8000))
    for y_T in (np.zeros_like(x_T), np.ones_like(x_T)):
        assert all(math.isfinite(value) for value in intelligibility(x_T, y_T, 8000))
