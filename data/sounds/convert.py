"""How a sound is packed: kept as it is, or resampled, mixed, trimmed and encoded again without loss."""

import io
from typing import Any, Literal

import numpy as np

from data.shards.sample import DamagedSampleError
from data.sounds.clips import level, to_int16
from data.sounds.config import SoundConvertConfig
from data.sounds.files import SoundFile, extension_of, part, soundfile

_FLAC_CHANNELS, _FLAC_RATE = 8, 655_350
_BLOCK = 1 << 18
"""Samples that are decoded at once to check a file."""


def convert(encoded: bytes | None, array: np.ndarray | None, config: SoundConvertConfig) -> tuple[str, bytes]:
    """Extension and contents of the member that holds an encoded sound. DamagedSampleError where it is left out."""
    assert encoded is not None and array is None, "sounds come as files"
    if config == SoundConvertConfig(check="none"):
        return extension_of(encoded), encoded
    with SoundFile(encoded) as file:
        _must_fit(file, config)
        if config.keeps_bytes:
            extension = extension_of(encoded)
            if config.check == "decode":
                check_all(file)
            if config.silence_level is None:
                return extension, encoded
        channels, rate = config.channels or file.channels, config.sample_rate or file.rate
        x_CT = part(file, 0, file.frames, channels, rate)
        if config.silence_level is not None and level(x_CT) < config.silence_level:
            raise DamagedSampleError("silent: below sound.silence_level")
        if config.keeps_bytes:
            return extension, encoded
    form: Any = "flac" if config.format == "keep" else config.format
    if form == "flac" and (channels > _FLAC_CHANNELS or rate > _FLAC_RATE):
        raise DamagedSampleError(
            f"FLAC can't hold {channels} channels at {rate} Hz: set sound.channels or sound.format"
        )
    return form, encode(x_CT, rate, form)


def encode(x_CT: np.ndarray, rate: int, form: Literal["flac", "wav"]) -> bytes:
    """A sound with 16 bits, samples as floats in [-1, 1] or int16; one with a peak above 1 is made quieter to fit."""
    if x_CT.dtype != np.int16:
        x_CT = to_int16(x_CT / max(1.0, float(np.abs(x_CT).max())))
    buffer = io.BytesIO()
    smallest = {"compression_level": 1.0} if form == "flac" else {}
    soundfile.write(buffer, x_CT.T, rate, format=form.upper(), subtype="PCM_16", **smallest)
    return buffer.getvalue()


def check_all(file: SoundFile) -> None:
    """DamagedSampleError unless all of the sound can be decoded."""
    for start in range(0, file.frames, _BLOCK):
        file.read(start, min(_BLOCK, file.frames - start))


def _must_fit(file: SoundFile, config: SoundConvertConfig) -> None:
    seconds = file.frames / file.rate
    if seconds < config.least_seconds:
        raise DamagedSampleError(f"{seconds:.3f} s are less than sound.least_seconds={config.least_seconds:g}")
    if seconds > config.most_seconds:
        raise DamagedSampleError(f"{seconds:.3f} s are more than sound.most_seconds={config.most_seconds:g}")
