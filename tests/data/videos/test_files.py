"""Frames of video files: the right ones in every format, at any rate, upright, or refused with a reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from data.pictures.config import FrameConfig
from data.shards.sample import DamagedSampleError
from data.videos.animated import every_frame
from data.videos.convert import check_all
from data.videos.files import open_video
from data.videos.film import Film
from data.videos.packets import Indexed
from launch.command.cli import UserError
from launch.command.libraries import library
from tests.data.videos.making import film, number_of, numbered

RGB, GREY = FrameConfig(), FrameConfig(channels=1)
FRAMES = [numbered(i) for i in range(48)]
WANTED = [0, 1, 14, 15, 31, 46, 47]
MADE: dict[str, dict[str, Any]] = {
    "B-frames": {"bf": "3", "g": "12"},
    "open groups": {"x264-params": "open-gop=1:keyint=10:scenecut=0:bframes=3:b-adapt=0"},
    "fragments": {"movflags": "frag_keyframe+empty_moov", "g": "12"},
    "mkv": {"form": "mkv", "bf": "2", "g": "12"},
    "xvid": {"form": "avi", "codec": "mpeg4", "bf": "2", "g": "10", "qscale": "2", "flags": "+qscale"},
    "avi without times": {"form": "avi", "bf": "2", "g": "12"},
    "vp8, hidden frames": {
        "form": "webm",
        "codec": "libvpx",
        "lag-in-frames": "16",
        "auto-alt-ref": "1",
        "b": "1M",
    },
    "vp9": {"form": "webm", "codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
    "hevc": {"codec": "libx265", "x265-params": "log-level=none:pools=none:keyint=10:bframes=3"},
    "mov": {"form": "mov", "codec": "mpeg4"},
    "10 bits": {"pix_fmt": "yuv420p10le", "preset": "ultrafast"},
    "odd sides": {"form": "mkv", "codec": "ffv1"},
}

BY_INDEX = ("B-frames", "mov", "10 bits")
"""Those of which only the packets of a few groups are read."""


def read(contents: bytes, numbers: list[int], config: FrameConfig = RGB) -> list[np.ndarray]:
    with open_video(contents, 1_000_000) as file:
        return list(file.read(numbers, config))


@pytest.mark.parametrize("name", MADE)
def test_wanted_frames_are_those_of_reading_all(name: str) -> None:
    frames = [frame[:31, :63] for frame in FRAMES] if name == "odd sides" else FRAMES
    contents = film(frames, **MADE[name])
    with open_video(contents, 1_000_000) as file:
        assert file.frames == 48 and np.allclose(file.times, np.arange(49) / 25)
        everything = list(file.read(range(48), RGB))
        assert [number_of(frame) for frame in everything] == list(range(48))
        assert everything[0].shape == (*frames[0].shape[:2], 3)
        # skipped frames and later beginnings change no bit, also when the file is read again
        for numbers in (WANTED, [20], [9, 45]):
            for number, frame in zip(numbers, file.read(numbers, RGB), strict=True):
                assert np.array_equal(frame, everything[number]), number
        assert isinstance(file, Film) and isinstance(file._table, Indexed) == (name in BY_INDEX)
    check_all(file := open_video(contents, 1_000_000))
    file.close()


@pytest.mark.parametrize("form", ["mp4", "mkv"])
def test_at_a_variable_rate_every_frame_has_its_time(form: str) -> None:
    ticks = np.cumsum(np.random.default_rng(0).integers(10, 90, 30)).tolist()
    with open_video(film(FRAMES[:30], form, ticks=ticks, bf="2"), 1_000_000) as file:
        assert np.allclose(file.times[:-1], (np.array(ticks) - ticks[0]) / 1000, atol=1e-9)
        assert [number_of(frame) for frame in file.read([3, 17, 29], GREY)] == [3, 17, 29]


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_rotated_videos_are_upright(angle: int) -> None:
    turned = [np.ascontiguousarray(np.rot90(frame, -angle // 90)) for frame in FRAMES[:3]]
    found = read(film(turned, rotated=angle), [0, 1, 2])
    assert found[0].shape == (32, 64, 3) and [number_of(frame) for frame in found] == [0, 1, 2]


def test_colours_are_right_and_hdr_is_told(tmp_path: Path) -> None:
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, :16], halves[:16, 16:] = (255, 0, 0), 255
    (frame,) = read(film([halves], crf="1"), [0])
    for at, value in (((5, 5), (255, 0, 0)), ((5, 25), (255, 255, 255)), ((25, 25), (0, 0, 0))):
        assert np.abs(frame[at].astype(int) - value).max() <= 4
    (grey,) = read(film([halves], crf="1"), [0], GREY)
    assert grey.shape == (32, 32, 1) and grey[[5, 25], [25, 25], 0].tolist() == [255, 0]
    assert abs(int(grey[5, 5, 0]) - 76) < 4
    for transfer, name in (("smpte2084", "pq"), ("arib-std-b67", "hlg"), ("bt709", "")):
        contents = film([halves], pix_fmt="yuv420p10le", **{"x264-params": f"transfer={transfer}"})
        with open_video(contents, 1_000_000) as file:
            next(iter(file.read([0], RGB)))
            assert file.hdr == name


@pytest.mark.parametrize("form", ["WEBP", "GIF", "still"])
def test_animations_and_their_times(form: str) -> None:

    pictures = [Image.fromarray(frame) for frame in FRAMES[:5]]
    shown = [40, 100, 0 if form == "GIF" else 30, 50, 20]
    buffer = io.BytesIO()
    if form == "still":
        pictures[0].save(buffer, "WEBP", lossless=True)
    elif form == "WEBP":
        buffer.write(every_frame(pictures, shown))
    else:
        pictures[0].save(buffer, form, save_all=True, append_images=pictures[1:], duration=shown)
    with open_video(buffer.getvalue(), 1_000_000) as file:
        assert file.frames == (1 if form == "still" else 5)
        if form != "still":
            expected = [0, 0.04, 0.14, 0.24 if form == "GIF" else 0.17]
            assert np.allclose(file.times[:4], expected) and len(file.times) == 6
            assert [number_of(frame) for frame in file.read([1, 4], RGB)] == [1, 4]
        frame = next(iter(file.read([0], RGB)))
        assert form == "GIF" or np.array_equal(frame, FRAMES[0])


def test_equal_frames_of_an_animation_stay() -> None:
    still = [Image.fromarray(FRAMES[7])] * 6
    with open_video(every_frame(still, [100] * 6), 1_000_000) as file:
        assert file.frames == 6 and np.array_equal(next(iter(file.read([5], RGB))), FRAMES[7])


def faststart(folder: Path) -> bytes:
    path = folder / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    mp4, mkv, fast = film(FRAMES, bf="2"), film(FRAMES, "mkv", g="12"), faststart(tmp_path)
    cut = len(fast) - (len(fast) - fast.find(b"mdat")) // 2
    webp = every_frame([Image.fromarray(frame) for frame in FRAMES[:5]], [40] * 5)
    for contents, words in (
        (b"", "no bytes"),
        (b"some words" * 9, "not a video of a known format"),
        (b"FLV\x01" + bytes(90), "flv videos can't be decoded"),
        (mp4[: len(mp4) // 2], "can't be opened: Invalid data found"),
        (fast[:cut], r"it ends after \d+ of 48 frames"),
        (mkv[: len(mkv) * 2 // 3], r"it ends after [\d.]+ of 1.9 s"),
        (mkv[:40], "can't be opened"),
        (webp[:200], "can't be opened|can't be decoded"),
        (film(FRAMES[:2]), r"64x32 pixels are more than max_pixels=2000"),
    ):
        with pytest.raises(DamagedSampleError, match=words):  # noqa: SIM117
            with open_video(contents, 2000 if "pixels" in words else 1_000_000) as file:
                check_all(file)


def test_damage_inside_is_refused_where_it_is_met() -> None:
    contents = bytearray(film(FRAMES, "mkv", "ffv1", g="1"))
    contents[len(contents) // 2 : len(contents) // 2 + 4000] = bytes(4000)
    with pytest.raises(DamagedSampleError, match=r"frame|can't be decoded|ends"):
        read(bytes(contents), list(range(48)))


def test_without_the_extra_it_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"videos need no_such_library \(.*\): pip install 'vqloom\[video\]'"):
        library("no_such_library", "video").open()
