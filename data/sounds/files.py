"""Sound files of any format in memory: what they hold, and parts of them. Needs the extra `sound`.

The format is recognised by the contents, not by the extension (libsndfile does it). Shapes: C channels, T samples.
"""

import io
import math
from types import TracebackType
from typing import Self

import numpy as np

from data.shards.sample import DamagedSampleError, Sample, member_of
from data.shards.signature import LENGTH, SOUNDS, sound_format
from launch.command.cli import reason
from launch.command.libraries import library

soundfile, soxr = library("soundfile", "sound"), library("soxr", "sound")
MOST_CHANNELS, LEAST_RATE, MOST_RATE = 64, 100, 1_600_000
"""Files with more channels or other rates are refused: they are damaged, or would fill the memory."""
_MP3 = 32 * 1152
"""Samples that are decoded before those that are read of an MP3: its frames keep bits of theirs in those before."""
_UNKNOWN = "not a sound of a known format"
_STEP = 2000
"""Samples after which two rates meet, of all rates in use."""
_FILTER = 128
"""Samples, of the lower rate, that count for one at either side when a sound is resampled."""


def sound_member(sample: Sample) -> str:
    """The extension of the sample's sound (`data.shards.sample.member_of`); DamagedSampleError without one."""
    return member_of(sample, SOUNDS, "sound")


class SoundFile:
    """One sound that is read in parts; a context manager. DamagedSampleError where it can't be decoded."""

    def __init__(self, data: bytes | memoryview):
        if not len(data):
            raise DamagedSampleError("no bytes")
        try:
            self._file = soundfile.SoundFile(io.BytesIO(data))
        except (soundfile.SoundFileError, ValueError, TypeError) as error:
            raise DamagedSampleError(_why_not(data, error)) from error
        self.format: str = self._file.format
        """libsndfile's name: WAV, FLAC, OGG, MP3, …"""
        self.rate: int = self._file.samplerate
        """Samples a second."""
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames
        """Samples of each channel, as its header says."""
        if not LEAST_RATE <= self.rate <= MOST_RATE:
            raise DamagedSampleError(f"its rate is {self.rate} Hz")
        if self.channels > MOST_CHANNELS:
            raise DamagedSampleError(f"{self.channels} channels are more than {MOST_CHANNELS}")
        if not 0 < self.frames < 2**48:
            raise DamagedSampleError("it has no samples" if self.frames <= 0 else "its length is unknown")

    def read(self, start: int, count: int) -> np.ndarray:
        """x_CT: `count` samples from `start` on, which must be there, float32 in [-1, 1] (files of floats: any).

        DamagedSampleError where fewer can be read, but of MP3, whose header may be wrong about the length.
        """
        before = min(start, _MP3) if self.format == "MP3" else 0
        try:
            self._file.seek(start - before)
            x_TC = self._file.read(before + count, dtype="float32", always_2d=True)[before:]
        except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
            raise DamagedSampleError(f"can't be decoded: {reason(error)}"[:200]) from error
        if len(x_TC) < count and (self.format != "MP3" or not len(x_TC)):
            raise DamagedSampleError(f"it ends after {start + len(x_TC)} of {self.frames} samples")
        if not np.isfinite(x_TC).all():
            raise DamagedSampleError("some of its samples are NaN or infinite")
        return x_TC.T

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def mixed(x_CT: np.ndarray, channels: int) -> np.ndarray:
    """The sound with 1 or 2 channels: the mean of all, or stereo as it is; of other numbers twice the mean."""
    if len(x_CT) == channels:
        return x_CT
    return np.repeat(x_CT.mean(axis=0, keepdims=True), channels, axis=0)


def part(file: SoundFile, start: int, count: int, channels: int, rate: int) -> np.ndarray:
    """x_CT, float32: samples `start` to `start` + `count` - 1 of a file, with other channels and at another rate.

    What is before and after them goes into the filter, as if all of the file were resampled. At least one sample.
    """
    if file.rate == rate:
        return mixed(file.read(start, count), channels)
    margin = math.ceil(_FILTER * max(1.0, file.rate / rate))
    step = file.rate // math.gcd(file.rate, rate)
    if step <= _STEP:
        margin = -(-margin // step) * step  # then the part begins with one of the resampled file's own samples
    before = min(start, margin)
    stop = min(file.frames, start + count + margin)
    x_CT = mixed(file.read(start - before, stop - start + before), channels)
    skip, length = round(before * rate / file.rate), max(1, round(count * rate / file.rate))
    resampled_CT = soxr.resample(x_CT.T, file.rate, rate).T[:, skip : skip + length]
    return resampled_CT if resampled_CT.shape[1] else x_CT[:, :1]


def extension_of(encoded: bytes | memoryview) -> str:
    """The extension that fits the first bytes, whatever the file is called. DamagedSampleError for no known sound."""
    extension = sound_format(encoded[:LENGTH])
    if extension is None or extension not in SOUNDS:
        raise DamagedSampleError(f"{extension} sounds can't be decoded" if extension else _UNKNOWN)
    return extension


def _why_not(data: bytes | memoryview, error: Exception) -> str:
    """Why a file can't be opened: its format, if it has another, else what the library says."""
    try:
        extension_of(data)
    except DamagedSampleError as why:
        return str(why)
    return f"can't be opened: {reason(error)}"[:200]
