"""STOI and ESTOI: how well speech is understood, predicted from its original.

Taal et al. 2011 (STOI), Jensen & Taal 2016 (ESTOI), with the constants of the authors' code, which pystoi follows too.
Legend: T samples at 10 kHz, N frames, F frequencies, J third-octave bands, S segments of L = 30 frames.
"""

import functools
import math

import numpy as np

RATE, FRAME, HOP, SIZE = 10_000, 256, 128, 512
"""Hz; samples of a frame and between frames; of its Fourier transform."""
BANDS, LOWEST = 15, 150.0
"""Third-octave bands, and the centre of the first in Hz."""
LENGTH = 30
"""Frames of a segment, 384 ms."""
RANGE, CLIP = 40.0, -15.0
"""dB: frames that are quieter than the loudest by this are left out; lower bound of the signal-to-distortion ratio."""
_EPSILON = np.finfo(np.float64).eps


def intelligibility(x_T: np.ndarray, y_T: np.ndarray, rate: int) -> tuple[float, float]:
    """STOI and ESTOI of a mono sound y with the original x, both float of one length; NaN where they aren't defined.

    They need a segment: 30 frames, 0.4 s, that are not silent in x. Above 1 they are only by rounding.
    """
    x, y = (resampled(wave.astype(np.float64), rate, RATE) for wave in (x_T, y_T))
    x, y = _without_silence(x, y)
    x_FN, y_FN = (np.fft.rfft(_frames(wave), SIZE).T for wave in (x, y))
    if x_FN.shape[1] < LENGTH:
        return math.nan, math.nan
    x_SJL, y_SJL = (_segments(np.sqrt(_bands() @ np.abs(z_FN) ** 2)) for z_FN in (x_FN, y_FN))
    return _stoi(x_SJL, y_SJL), _estoi(x_SJL, y_SJL)


def _stoi(x_SJL: np.ndarray, y_SJL: np.ndarray) -> float:
    """Mean correlation of bands' envelopes over 30 frames, after scaling and clipping y. (Taal et al., eq. 3 to 6)"""
    y = y_SJL * (_norm(x_SJL, 2) / (_norm(y_SJL, 2) + _EPSILON))
    y = np.minimum(y, x_SJL * (1 + 10 ** (-CLIP / 20)))
    x, y = (one - one.mean(2, keepdims=True) for one in (x_SJL, y))
    x, y = (one / (_norm(one, 2) + _EPSILON) for one in (x, y))
    return float((x * y).sum() / (x.shape[0] * x.shape[1]))


def _estoi(x_SJL: np.ndarray, y_SJL: np.ndarray) -> float:
    """Mean product of segments whose rows, then columns, have mean 0 and norm 1. (Jensen & Taal, eq. 2 to 8)"""
    normal = []
    for one in (x_SJL, y_SJL):
        for axis in (2, 1):
            one = one - one.mean(axis, keepdims=True)
            one = one / (_norm(one, axis) + _EPSILON)
        normal.append(one)
    return float((normal[0] * normal[1]).sum() / (LENGTH * len(x_SJL)))


def _norm(values: np.ndarray, axis: int) -> np.ndarray:
    return np.linalg.norm(values, axis=axis, keepdims=True)


def resampled(x_T: np.ndarray, rate: int, to: int) -> np.ndarray:
    """A sound at another rate, by Octave's filter, a sinc in a Kaiser window, 60 dB down; zeros lie around it.

    Sample m is Σ_k x_k·h(m·down − k·up). Of `up` neighbours each has taps of its own, with a step of `up` in h.
    """
    if rate == to:
        return x_T
    common = math.gcd(to, rate)
    up, down = to // common, rate // common
    taps = _filter(up, down)
    half, reach, count = len(taps) // 2, -(-len(taps) // up), -(-len(x_T) * up // down)
    padded_T, out_T = np.pad(x_T, reach), np.empty(count)
    for number in range(min(up, count)):
        last, phase = divmod(number * down + half, up)
        own = taps[phase::up][::-1]
        windows = np.lib.stride_tricks.sliding_window_view(padded_T, len(own))
        first, values = last - len(own) + 1 + reach, len(range(number, count, up))
        out_T[number::up] = windows[first : first + (values - 1) * down + 1 : down] @ own
    return out_T


@functools.cache
def _filter(up: int, down: int) -> np.ndarray:
    cutoff = 1 / (2 * max(up, down))
    rejection = 60.0
    half = math.ceil((rejection - 8) / (28.714 * cutoff / 10))
    at = np.arange(-half, half + 1)
    weight = np.kaiser(2 * half + 1, 0.1102 * (rejection - 8.7)) * 2 * up * cutoff * np.sinc(2 * cutoff * at)
    return up * weight / weight.sum()


def _frames(x_T: np.ndarray) -> np.ndarray:
    """Frames of a Hann window, (N, 256), that lie before the last sample, as in the authors' code."""
    starts = np.arange(0, len(x_T) - FRAME, HOP)
    if not len(starts):
        return np.zeros((0, FRAME))
    return x_T[starts[:, None] + np.arange(FRAME)] * np.hanning(FRAME + 2)[1:-1]


def _without_silence(x_T: np.ndarray, y_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the frames that are silent in x: windowed frames, added where they overlap."""
    frames = [_frames(x_T), _frames(y_T)]
    if not len(frames[0]):
        return np.zeros(0), np.zeros(0)
    level_N = 20 * np.log10(np.linalg.norm(frames[0], axis=1) + _EPSILON)
    kept_N = level_N.max() - RANGE - level_N < 0
    joined = []
    for frames_NT in frames:
        out_T = np.zeros((kept_N.sum() + 1) * HOP)
        for number, frame_T in enumerate(frames_NT[kept_N]):
            out_T[number * HOP : number * HOP + FRAME] += frame_T
        joined.append(out_T)
    return joined[0], joined[1]


@functools.cache
def _bands() -> np.ndarray:
    """Which bins of the spectrum each third-octave band has, (15, 257)."""
    bins_F = np.linspace(0, RATE, SIZE + 1)[: SIZE // 2 + 1]
    band_JF = np.zeros((BANDS, len(bins_F)))
    for number in range(BANDS):
        low, high = (LOWEST * 2 ** ((2 * number + side) / 6) for side in (-1, 1))
        first, last = (int(np.argmin((bins_F - edge) ** 2)) for edge in (low, high))
        band_JF[number, first:last] = 1
    return band_JF


def _segments(envelope_JN: np.ndarray) -> np.ndarray:
    """All runs of 30 frames, (S, 15, 30)."""
    windows = np.lib.stride_tricks.sliding_window_view(envelope_JN, LENGTH, axis=1)  # (J, S, L)
    return windows.transpose(1, 0, 2)
