"""How a sound becomes a clip: settings that travel with releases and code shards. No torch here."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from launch.command.checks import at_least, check

FULL_SCALE = 32768
"""What 1.0 is as int16."""


@dataclass(frozen=True, kw_only=True)
class SoundConfig:
    """How a sound of any format, rate and number of channels becomes a clip of `length` samples."""

    kind: Literal["sounds"] = "sounds"
    """Kind of the samples, which decides what other settings there are."""
    sample_rate: int = 16000
    """Samples a second of the clip; sounds of another rate are resampled."""
    length: int = 16000
    """Samples of the clip, a multiple of the tokenizer's hop. Of a longer sound a part is taken; a shorter one is
    followed by zeros, and the batch's lengths say where these begin."""
    channels: int = 1
    """1: the mean of all channels; 2: stereo, of a sound with one channel or more than two twice the mean."""
    random_crop: bool = True
    """In training, cut the clip at a random place of a longer sound instead of in its middle."""
    gain: tuple[float, ...] | None = None
    """In training, make the clip louder by a random number of dB in this range, such as -6,3. Null: by none. A clip
    that would be cut off at full scale is made quieter instead."""
    loudness: float | None = None
    """Make each clip as loud as this, in dB (LUFS) by the weighting of ITU-R BS.1770, before `gain`: -16, say. Null:
    clips stay as loud as they are. Clips below -70 dB stay as they are too."""
    silence: Literal["keep", "redraw", "drop"] = "keep"
    """In training, what is done to silent clips. redraw: other places of the sound are tried; drop: so they are, and
    where all are silent the nearest other sample takes its place, without being counted as damaged."""
    silence_level: float = -60.0
    """RMS level in dB of full scale, without the mean, below which a clip is silent."""

    def __post_init__(self) -> None:
        if self.kind != "sounds":
            raise ValueError(f"transform.kind={self.kind} has other settings than sounds: set kind to sounds")
        fits = 1000 <= self.sample_rate <= 384_000
        check("transform.sample_rate", self.sample_rate, fits, "samples a second, such as 16000")
        at_least(1, self, "length", prefix="transform.")
        check("transform.channels", self.channels, self.channels in (1, 2), "1 (mono) or 2 (stereo)")
        if self.gain is not None:
            object.__setattr__(self, "gain", tuple(float(level) for level in self.gain))
            if len(self.gain) != 2 or not -100 <= self.gain[0] <= self.gain[1] <= 100:
                raise ValueError(
                    f"transform.gain={','.join(f'{level:g}' for level in self.gain)} is no range of dB: set it to the "
                    "least and the most, such as -6,3"
                )
        if self.loudness is not None:
            check("transform.loudness", self.loudness, -70 < self.loudness <= 0, "dB from -70 to 0, such as -16")
        check("transform.silence_level", self.silence_level, -200 <= self.silence_level <= 0, "dB below 0, such as -60")
        if self.silence == "redraw" and not self.random_crop:
            raise ValueError("transform.silence=redraw needs transform.random_crop=true: set it, or silence to drop")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of a clip's axes, without channels."""
        return (self.length,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: releases and code indexes carry them."""
        return {**asdict(self), "gain": None if self.gain is None else list(self.gain)}


@dataclass(frozen=True, kw_only=True)
class SoundConvertConfig:
    """What is done to each sound."""

    sample_rate: int | None = None
    """Samples a second; null: the sound keeps its rate."""
    channels: int | None = None
    """1 or 2 (as in data.transform); null: the sound keeps its channels."""
    format: Literal["keep", "flac", "wav"] = "keep"
    """keep: the original bytes where rate and channels are kept too, else flac. flac and wav have 16 bits."""
    check: Literal["none", "header", "decode"] = "header"
    """How sounds whose bytes are kept are checked: none; header (finds other files and files without a sample); decode
    (finds truncated ones too). Those that fail are left out and listed."""
    least_seconds: float = 0.0
    """A shorter sound is left out."""
    most_seconds: float = 3600.0
    """A longer sound is left out."""
    silence_level: float | None = None
    """A sound whose RMS level in dB of full scale, without its mean, is below this is left out: -60, say."""

    def __post_init__(self) -> None:
        rate, channels, quiet = self.sample_rate, self.channels, self.silence_level
        check("sound.sample_rate", rate or 0, rate is None or 4000 <= rate <= 384_000, "4000 to 384000, or to null")
        check("sound.channels", channels or 0, channels in (None, 1, 2), "1, 2 or null")
        check("sound.least_seconds", self.least_seconds, self.least_seconds >= 0, "0 or more seconds")
        longer = self.most_seconds > self.least_seconds
        check("sound.most_seconds", self.most_seconds, longer, "a number above sound.least_seconds")
        check(
            "sound.silence_level", quiet or 0, quiet is None or -200 <= quiet <= 0, "dB below 0, such as -60, or null"
        )

    @property
    def keeps_bytes(self) -> bool:
        """Whether encoded sounds go into the shards as they are."""
        return self.sample_rate is None and self.channels is None and self.format == "keep"
