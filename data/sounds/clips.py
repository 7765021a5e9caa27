"""From a sound file to a clip: where it is cut, how loud it is, and whether it is silent.

Shapes: C channels, T samples.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from data.shards.quarantine import QuarantinedError
from data.sounds.config import FULL_SCALE, SoundConfig
from data.sounds.files import SoundFile, part

TRIES = 8
"""Places that are tried, at most, for a clip that isn't silent."""
_GATE = -70.0
"""Loudness in dB below which BS.1770 takes nothing for sound."""


def clip_of(data: bytes | memoryview, config: SoundConfig, numbers: Iterator[float] | None = None) -> np.ndarray:
    """A clip of an encoded sound: samples_CT, int16, with T ≤ `config.length`, less where the sound is shorter.

    `numbers` are its random numbers; None: as in evaluation, the middle of a longer sound, no random gain, and silence
    is kept. DamagedSampleError for what can't be decoded, QuarantinedError for silence that is to be dropped.
    """
    with SoundFile(data) as file:
        need = math.ceil(config.length * file.rate / config.sample_rate)
        extra = max(0, file.frames - need)
        rises = None if numbers is None else next(numbers)
        for start in _places(extra, config, numbers):
            x_CT = part(file, start, min(need, file.frames), config.channels, config.sample_rate)[:, : config.length]
            if numbers is None or config.silence == "keep" or level(x_CT) >= config.silence_level:
                break
        else:
            if config.silence == "drop":
                raise QuarantinedError(f"silent: below transform.silence_level={config.silence_level:g} dB")
    return to_int16(_as_loud(x_CT, config, rises))


def _places(extra: int, config: SoundConfig, numbers: Iterator[float] | None) -> Iterator[int]:
    """First samples to try, of a sound that is longer than the clip by `extra`."""
    if numbers is None or not config.random_crop or not extra:
        yield extra // 2
        return
    for _ in range(1 if config.silence == "keep" else TRIES):
        yield int((extra + 1) * next(numbers))


def level(x_CT: np.ndarray) -> float:
    """RMS in dB of full scale, without each channel's mean (-inf of a constant)."""
    power = float(np.var(x_CT, axis=1, dtype=np.float64).mean())
    return 10 * math.log10(power) if power > 0 else -math.inf


def loudness(x_CT: np.ndarray, rate: int) -> float:
    """Loudness in LUFS by ITU-R BS.1770-5, of the whole clip as one block, without gating and mean; -inf of silence."""
    size = 1 << (2 * x_CT.shape[1] - 1).bit_length()
    x_CT = x_CT - x_CT.mean(axis=1, keepdims=True, dtype=np.float64)
    power_CF = np.abs(np.fft.rfft(x_CT, size, axis=1)) ** 2
    power_CF[:, 1:-1] *= 2  # the negative frequencies
    energy = float((power_CF * _weighting(rate, size)).sum()) / size
    return -0.691 + 10 * math.log10(energy / x_CT.shape[1]) if energy > 0 else -math.inf


def k_filters(rate: int) -> list[tuple[list[float], list[float]]]:
    """Numerator and denominator of the two filters of BS.1770, for any rate above 3.4 kHz.

    They are the bilinear transforms of the analogue filters that give the recommendation's tables at 48 kHz: a shelf
    (+4 dB above 1.68 kHz) and a high-pass at 38 Hz.
    """
    k, q = math.tan(math.pi * 1681.974450955533 / rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    a0 = 1 + k / q + k * k
    shelf_b = [(high + band * k / q + k * k) / a0, 2 * (k * k - high) / a0, (high - band * k / q + k * k) / a0]
    shelf_a = [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    k, q = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    a0 = 1 + k / q + k * k
    return [(shelf_b, shelf_a), ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0])]


@lru_cache(8)
def _weighting(rate: int, size: int) -> np.ndarray:
    """Power gain of both filters at the frequencies of an FFT."""
    z_F = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    gain_F = np.ones(size // 2 + 1)
    for b, a in k_filters(rate):
        gain_F *= np.abs(np.polyval(b[::-1], z_F) / np.polyval(a[::-1], z_F)) ** 2
    return gain_F


def _as_loud(x_CT: np.ndarray, config: SoundConfig, rises: float | None) -> np.ndarray:
    """The clip with the loudness and random gain of the settings (`rises` is its number), within full scale."""
    decibels = 0.0
    if config.loudness is not None and (now := loudness(x_CT, config.sample_rate)) > _GATE:
        decibels += config.loudness - now
    if config.gain is not None and rises is not None:
        least, most = config.gain
        decibels += least + (most - least) * rises
    if decibels:
        x_CT = x_CT * np.float32(10 ** (decibels / 20))
    peak = float(np.abs(x_CT).max())
    return x_CT / np.float32(peak) if peak > 1 else x_CT


def to_int16(x_CT: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] as the nearest int16; those outside are clamped."""
    return np.clip(np.rint(x_CT * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
