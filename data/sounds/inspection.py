"""Checks that a sound decodes and has the right extension; draws its spectrogram for a contact sheet.

Shapes: T samples, F frequencies, N frames.
"""

import numpy as np
from PIL import Image

from data.shards.sample import DamagedSampleError, Sample
from data.sounds.convert import check_all
from data.sounds.files import SoundFile, extension_of, part, sound_member

_ALIKE = {"oga": "ogg", "opus": "ogg", "mp2": "mp3", "aiff": "aif", "aifc": "aif", "snd": "au"}
"""What other extensions of sounds mean."""
_SHOWN = 30
"""Seconds of a sound that a spectrogram shows, at most."""
_RANGE = 80.0
"""Decibels from black to white."""
_COLOURS = ((0, 0, 0), (60, 20, 110), (180, 50, 100), (245, 140, 40), (255, 250, 200))


def check(sample: Sample, max_size: int) -> tuple[bytes, str]:
    """The sound's bytes, and a note where its extension names another format. DamagedSampleError if damaged."""
    name = sound_member(sample)
    contents = bytes(sample.files[name])
    with SoundFile(contents) as file:
        check_all(file)
    called = name.rpartition(".")[2]
    try:
        real = extension_of(contents)
    except DamagedSampleError:  # libsndfile knows formats that only few have
        return contents, ""
    alike = _ALIKE.get(called, called) == _ALIKE.get(real, real)
    return contents, "" if alike else f"called .{called}, is {real}"


def thumbnail(sample: Sample, side: int) -> Image.Image:
    """The sound's spectrogram, side×side pixels: its first 30 s from left to right, low frequencies at the bottom."""
    with SoundFile(sample.files[sound_member(sample)]) as file:
        x_CT = part(file, 0, min(file.frames, _SHOWN * file.rate), 1, file.rate)
    return spectrogram(x_CT[0], side, side)


def spectrogram(x_T: np.ndarray, width: int, height: int) -> Image.Image:
    """The logarithm of the power of a sound over time and frequency, in colours; 0 Hz is at the bottom.

    The brightest point is white, what is 80 dB below it black. Frequencies go up to half the rate, evenly.
    """
    size = 2 * height
    padded_T = np.pad(x_T.astype(np.float32), size // 2)
    starts_N = np.linspace(0, max(0, len(padded_T) - size), width).round().astype(np.int64)
    window_T = np.hanning(size + 1)[:size].astype(np.float32)
    frames_NT = padded_T[np.minimum(starts_N[:, None] + np.arange(size), len(padded_T) - 1)] * window_T
    power_NF = np.abs(np.fft.rfft(frames_NT, axis=1))[:, :height] ** 2
    decibels_FN = 10 * np.log10(power_NF.T[::-1] + 1e-12)
    share_FN = np.clip((decibels_FN - decibels_FN.max()) / _RANGE + 1, 0, 1)
    if not power_NF.max() > 1e-9:
        share_FN = np.zeros_like(share_FN)
    stops = np.linspace(0, 1, len(_COLOURS))
    planes = [np.interp(share_FN, stops, [colour[i] for colour in _COLOURS]) for i in range(3)]
    return Image.fromarray(np.stack(planes, axis=-1).round().astype(np.uint8))
