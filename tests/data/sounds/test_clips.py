"""From files to clips: every format, rate and number of channels; places, loudness, silence; and odd files."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import soxr

from data.shards.draws import draws
from data.shards.quarantine import QuarantinedError
from data.shards.sample import DamagedSampleError
from data.shards.signature import sound_format
from data.sounds.clips import clip_of, k_filters, level, loudness
from data.sounds.config import SoundConfig
from data.sounds.files import SoundFile, library, part
from launch.command.cli import UserError
from tests.data.sounds.making import encoded, ramp, tone

FORMATS = [
    ("WAV", "PCM_16", "wav"), ("WAV", "PCM_24", "wav"), ("WAV", "FLOAT", "wav"), ("FLAC", None, "flac"),
    ("OGG", "VORBIS", "ogg"), ("OGG", "OPUS", "opus"), ("MP3", None, "mp3"), ("AIFF", None, "aif"),
    ("AU", None, "au"), ("CAF", None, "caf"), ("W64", None, "w64"), ("RF64", None, "rf64"),
]  # fmt: skip


def config(**settings: object) -> SoundConfig:
    return SoundConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("form", "subtype", "extension"), FORMATS)
def test_every_format_is_cut_and_resampled(form: str, subtype: str | None, extension: str) -> None:
    contents = encoded(tone(1.0, 48000), 48000, form, subtype)
    assert sound_format(contents[:64]) == extension
    clip_CT = clip_of(contents, config(sample_rate=16000, length=8000))
    middle = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(8000) / 16000 + 0.25))
    lossy = extension in ("ogg", "opus", "mp3")
    assert clip_CT.shape == (1, 8000) and clip_CT.dtype == np.int16
    assert np.abs(clip_CT[0] / 32768 - middle).max() < (0.02 if lossy else 1e-4)


@pytest.mark.parametrize(("form", "subtype", "extension"), FORMATS)
def test_a_part_is_what_the_whole_has_there(form: str, subtype: str | None, extension: str) -> None:
    contents = encoded(tone(1.2, 48000), 48000, form, subtype)
    with SoundFile(contents) as file:
        whole_CT = file.read(0, file.frames)
    for start in (1, 5000, 12000, 30011):
        with SoundFile(contents) as file:
            assert np.abs(file.read(start, 9000) - whole_CT[:, start : start + 9000]).max() < 1e-4


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_sixteen_bits_stay_as_they_are(form: str) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    samples[:2] = -32768, 32767
    assert (clip_of(encoded(samples, 16000, form), config(length=5000))[0] == samples).all()


@pytest.mark.parametrize(("rate", "target"), [(44100, 16000), (8000, 24000), (22050, 44100), (192000, 8000)])
def test_a_resampled_part_is_that_of_the_whole(rate: int, target: int) -> None:
    x_T = np.convolve(np.random.default_rng(1).standard_normal(rate), np.ones(9) / 30, "same").astype(np.float32)
    whole_T, step = soxr.resample(x_T, rate, target), rate // math.gcd(rate, target)
    start = step * (rate // 4 // step)  # a place that is one of the target's samples
    with SoundFile(encoded(x_T, rate, "WAV", "FLOAT")) as file:
        part_T = part(file, start, rate // 3, 1, target)[0]
    first = start * target // rate
    assert len(part_T) == round(rate // 3 * target / rate)
    assert np.abs(part_T - whole_T[first : first + len(part_T)]).max() < 1e-3, "the filter sees what is around the part"


def test_channels_are_mixed() -> None:
    three = np.stack([ramp(100), ramp(100, 200), ramp(100, 400)], axis=1)
    left_right = three[:, :2]
    assert clip_of(encoded(three), config(length=100)).tolist() == [ramp(100, 200).tolist()]
    stereo = config(length=100, channels=2)
    assert clip_of(encoded(three), stereo).tolist() == [ramp(100, 200).tolist()] * 2
    assert (clip_of(encoded(left_right), stereo) == left_right.T).all()
    assert clip_of(encoded(ramp(100)), stereo).tolist() == [ramp(100).tolist()] * 2
    assert clip_of(encoded(left_right), config(length=100)).tolist() == [ramp(100, 100).tolist()]


def test_places_are_drawn_by_key_and_epoch_and_reach_both_ends() -> None:
    contents, cut = encoded(ramp(110)), config(length=100)
    firsts = [int(clip_of(contents, cut, draws(3, 0, f"k{i}"))[0, 0]) for i in range(200)]
    assert set(firsts) == set(range(11))
    assert firsts == [int(clip_of(contents, cut, draws(3, 0, f"k{i}"))[0, 0]) for i in range(200)]
    assert firsts != [int(clip_of(contents, cut, draws(3, 1, f"k{i}"))[0, 0]) for i in range(200)]
    assert clip_of(contents, cut)[0, 0] == 5
    assert clip_of(contents, config(length=100, random_crop=False), draws(3, 0, "k"))[0, 0] == 5


def test_numbers_are_uniform_and_their_own() -> None:
    numbers = list(islice(draws(0, 0, "key"), 4000))
    assert numbers == list(islice(draws(0, 0, "key"), 4000)) != list(islice(draws(0, 0, "kez"), 4000))
    assert abs(np.mean(numbers) - 0.5) < 0.02 and abs(np.var(numbers) - 1 / 12) < 0.004
    assert min(numbers) >= 0 and max(numbers) < 1 and len(set(numbers)) == 4000


def test_the_loudness_filters_are_those_of_the_recommendation() -> None:
    (shelf_b, shelf_a), (pass_b, pass_a) = k_filters(48000)
    assert np.allclose(shelf_b, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-8)
    assert np.allclose(shelf_a, [1, -1.69065929318241, 0.73248077421585], atol=1e-8)
    assert np.allclose(pass_b, [1, -2, 1]) and np.allclose(pass_a, [1, -1.99004745483398, 0.99007225036621], atol=1e-8)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_full_tone_of_997_hz_is_3_lufs_below_full_scale(rate: int) -> None:
    x_T = tone(2.0, rate, 997.0, 1.0).astype(np.float32)
    assert abs(loudness(x_T[None], rate) + 3.01) < 0.05  # ITU-R BS.1770, annex 1
    assert abs(loudness(np.stack([x_T, x_T]), rate)) < 0.06  # two channels add up
    assert abs(loudness(x_T[None] / 10, rate) + 23.01) < 0.05


def test_clips_are_made_as_loud_as_the_settings_say() -> None:
    contents, whole = encoded(tone(1.0, 16000, 1000.0, 0.02), 16000), {"length": 16000}
    loud = clip_of(contents, config(**whole, loudness=-16.0))
    assert abs(loudness(loud / 32768, 16000) + 16) < 0.1
    varied = config(**whole, gain=(-6, 3))
    gained = [level(clip_of(contents, varied, draws(0, 0, str(i))) / 32768) for i in range(40)]
    plain = level(clip_of(contents, config(**whole)) / 32768)
    assert plain - 6.1 < min(gained) < plain - 4 and plain + 1.5 < max(gained) < plain + 3.1
    assert level(clip_of(contents, varied) / 32768) == plain, "no gain in evaluation"
    full_T = clip_of(contents, config(**whole, gain=(60, 60)), draws(0, 0, "k"))[0].astype(int)
    assert np.abs(full_T).max() >= 32767 and np.mean(np.abs(full_T) > 32700) < 0.2, "not cut off at full scale"


@pytest.mark.parametrize(
    ("x_TC", "rate", "length"),
    [
        (np.array([0.5]), 192000, 1),
        (np.array([0.5]), 8000, 2),
        (np.full(4000, 0.5), 16000, 4000),
        (np.zeros(4000), 16000, 4000),
        (np.sign(np.sin(np.arange(20000) / 7)), 22050, 4000),
        (np.random.default_rng(0).standard_normal((700, 8)) / 5, 44100, 254),
        (np.array([3.0, -3.0] * 1000), 16000, 2000),
    ],
    ids=["one sample", "one at 8 kHz", "DC", "silence", "clipped", "8 channels", "floats beyond 1"],
)
@pytest.mark.parametrize("loud", [None, -16.0])
def test_odd_sounds_become_clips_without_nan(x_TC: np.ndarray, rate: int, length: int, loud: float | None) -> None:
    contents = encoded(x_TC, rate, "WAV", "FLOAT")
    clip_CT = clip_of(contents, config(length=4000, loudness=loud), draws(0, 0, "k"))
    assert clip_CT.shape == (1, length)
    assert clip_CT.any() == bool(x_TC.any())
    if not np.ptp(x_TC) and length == 4000:
        assert (clip_CT == np.int16(round(x_TC[0] * 32768))).all(), "a constant has no loudness: it stays"


def test_a_peak_above_full_scale_keeps_its_form() -> None:
    wave = tone(0.25, 16000, 200.0, 4.0)
    clip_CT = clip_of(encoded(wave, 16000, "WAV", "FLOAT"), config(length=4000))
    assert np.abs(clip_CT[0] / 32768 - wave / 4).max() < 1e-4


def test_what_cant_be_decoded_is_damaged() -> None:
    flac = encoded(np.random.default_rng(0).standard_normal(16000) / 8, 16000, "FLAC")
    cases = {
        b"": "no bytes",
        b"word" * 40: "not a sound of a known format",
        b"\0\0\0\x18ftypM4A " + bytes(80): "m4a sounds can't be decoded",
        encoded(np.zeros(0)): "no samples",
        encoded(np.array([0.0, np.nan]), 16000, "WAV", "FLOAT"): "NaN or infinite",
        encoded(np.array([0.0, np.inf]), 16000, "WAV", "FLOAT"): "NaN or infinite",
        flac[: len(flac) // 2]: "can't be decoded",
        flac[:60]: "can't be opened",
        flac[: len(flac) // 2] + bytes(400) + flac[len(flac) // 2 + 400 :]: "can't be decoded",
        encoded(np.zeros((4, 80))): "80 channels are more than 64",
        encoded(np.zeros(9), 3_000_000): "its rate is 3000000 Hz",
        b"\x89PNG\r\n\x1a\n" + bytes(99): "not a sound",
    }
    for contents, why in cases.items():
        with pytest.raises(DamagedSampleError, match=why):
            clip_of(contents, config(length=16000))


def test_silence_is_kept_redrawn_or_dropped() -> None:
    silent, constant = encoded(np.zeros(9000)), encoded(np.full(9000, 0.3))
    half = encoded(np.concatenate([np.zeros(40000), tone(0.5, 16000)]))
    for silence in ("keep", "redraw", "drop"):
        assert not clip_of(silent, config(length=1000, silence=silence)).any(), "nothing is dropped in evaluation"
    assert not clip_of(silent, config(length=1000, silence="redraw"), draws(0, 0, "k")).any()
    for contents in (silent, constant):
        with pytest.raises(QuarantinedError, match=r"silent: below transform\.silence_level=-60 dB"):
            clip_of(contents, config(length=1000, silence="drop"), draws(0, 0, "k"))
    shares = {}
    for silence in ("keep", "redraw"):
        cut = config(length=4000, silence=silence)
        shares[silence] = np.mean([clip_of(half, cut, draws(0, 0, str(i))).any() for i in range(60)])
    assert shares["keep"] < 0.45 and shares["redraw"] > 0.75


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip of a long file must not cost its whole length."""
    read: list[int] = []
    real = SoundFile.read

    def counting(self: SoundFile, start: int, count: int) -> np.ndarray:
        read.append(count)
        return real(self, start, count)

    monkeypatch.setattr(SoundFile, "read", counting)
    clip_of(encoded(np.zeros(500_000), 48000, "FLAC"), config(length=1600), draws(0, 0, "k"))
    assert 4800 <= sum(read) < 7000


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sample_rate": 100}, "transform.sample_rate=100 is out of range"),
        ({"length": 0}, "transform.length=0 is out of range: set it to 1 or more"),
        ({"channels": 3}, r"transform.channels=3 is out of range: set it to 1 \(mono\) or 2"),
        ({"gain": (3, -3)}, "transform.gain=3,-3 is no range of dB"),
        ({"gain": (1,)}, "transform.gain=1 is no range of dB"),
        ({"loudness": 3.0}, "transform.loudness=3.0 is out of range"),
        ({"silence_level": 1.0}, "transform.silence_level=1.0 is out of range"),
        ({"silence": "redraw", "random_crop": False}, "transform.silence=redraw needs transform.random_crop=true"),
        ({"kind": "pictures"}, "transform.kind=pictures has other settings than sounds"),
    ],
)
def test_settings_that_cant_be_are_one_line(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**settings)


def test_without_the_extra_it_says_what_to_install() -> None:
    assert library("json", "sound").loads("3") == 3
    with pytest.raises(UserError, match=r"sounds need no_such_library \(.*\): pip install 'vqloom\[sound\]'"):
        library("no_such_library", "sound").read()
