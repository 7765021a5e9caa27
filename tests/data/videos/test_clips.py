"""Which frames a clip has, and that all of them are cut, mirrored and resized alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from data.media import read_transform
from data.pictures.config import TransformConfig
from data.pictures.decode import decode_picture
from data.pictures.geometry import draw
from data.pictures.transforms import apply
from data.shards.quarantine import QuarantinedError
from data.videos.choice import chosen, shown_at
from data.videos.clips import ClipDraw, clip_of, fill_clip
from data.videos.colours import to_sdr
from data.videos.config import VideoConfig
from data.videos.files import open_video
from tests.data.making import encoded
from tests.data.videos.making import clip, film, number_of, numbered


def config(**settings: Any) -> VideoConfig:
    return VideoConfig(**({"size": 32, "frames": 5, "fit": "stretch"} | settings))


def numbers(contents: bytes, settings: VideoConfig, start: float | None) -> list[int]:
    with open_video(contents, 1_000_000) as file:
        return chosen(file, settings, start)


def test_frames_of_a_clip() -> None:
    contents = clip(0, 20)
    for settings, start, expected in (
        ({}, None, range(7, 12)),
        ({}, 0.0, range(5)),
        ({}, 0.9999, range(15, 20)),
        ({"stride": 4}, None, range(1, 18, 4)),
        ({"stride": 4}, 0.9999, range(3, 20, 4)),
        ({"random_start": False}, 0.9999, range(7, 12)),
        ({"frames": 20}, 0.5, range(20)),
        ({"frames": 9, "stride": 4}, 0.5, range(0, 20, 4)),  # too short: what there is
        ({"frame_rate": 25.0}, 0.9999, range(15, 20)),
        ({"frame_rate": 12.5}, 0.0, range(0, 10, 2)),
        ({"frame_rate": 12.5}, 0.9999, range(11, 20, 2)),
        ({"frame_rate": 50.0, "frames": 6}, 0.0, [0, 0, 1, 1, 2, 2]),
        ({"frame_rate": 50.0, "frames": 6}, 0.9999, [17, 17, 18, 18, 19, 19]),
        ({"frame_rate": 1.0}, 0.7, [0]),
    ):
        assert numbers(contents, config(**settings), start) == list(expected), settings
    starts = {numbers(contents, config(), i / 64)[0] for i in range(64)}
    assert starts == set(range(16)), "each start comes up"


def test_by_time_at_a_variable_rate_and_with_rounded_times() -> None:
    times = np.array([0, 0.03, 0.1, 0.11, 0.5, 0.52, 0.6])
    assert shown_at(times, 0, 7, 10.0) == [0, 3, 3, 3, 3, 4]  # frame 3 comes 10 ms after 0.1 s: little enough
    assert shown_at(times, 0, 4, 100.0) == [0, 0, 0, 1]
    assert shown_at(times, 2, 3, 4.0) == [2, 3]  # the video ends at 0.6 s
    rounded = film([numbered(i) for i in range(30)], "mkv", rate=30)  # times in whole milliseconds
    assert numbers(rounded, config(frame_rate=30.0, frames=20), 0.0) == list(range(20))
    assert numbers(rounded, config(frame_rate=15.0, frames=10), 0.0) == list(range(0, 20, 2))


def test_short_videos_are_held_or_dropped() -> None:
    held = clip_of(clip(3, 3), config(frames=7, short="drop"))
    found = [number_of(frame_CHW.transpose(1, 2, 0)) for frame_CHW in held.transpose(1, 0, 2, 3)]
    assert held.shape == (3, 7, 32, 32) and found == [3, 4, 5, 5, 5, 5, 5]
    random = ClipDraw(draw(0, 0, "a"), 0.5)
    out = np.zeros((3, 7, 32, 32), np.uint8)
    fill_clip(clip(3, 1), config(frames=7), out, max_pixels=10**6, random=random)
    assert (out == out[:, :1]).all() and number_of(out[:, 0].transpose(1, 2, 0)) == 3, "a still"
    with pytest.raises(QuarantinedError, match=r"3 frames are too few for a clip of transform\.frames=7"):
        fill_clip(clip(3, 3), config(frames=7, short="drop"), out, max_pixels=10**6, random=random)


@pytest.mark.parametrize("resize", ["bicubic", "area"])
def test_every_frame_is_made_as_a_picture_is(resize: Any) -> None:
    settings: Any = {"size": 24, "channels": 1, "flip": True, "random_crop": True, "min_scale": 0.5, "resize": resize}
    contents = clip(9, 6, height=40, width=60)
    out_CTHW = np.zeros((1, 4, 24, 24), np.uint8)
    for key in "abcd":
        random = draw(1, 2, key)
        fill_clip(
            contents, VideoConfig(frames=4, **settings), out_CTHW, max_pixels=10**6, random=ClipDraw(random, 0.99)
        )
        for t in range(4):
            alone, picture = np.zeros((24, 24, 1), np.uint8), TransformConfig(**settings)
            png = encoded(numbered(9 + 2 + t, 40, 60), "PNG")
            apply(decode_picture(png, picture, max_pixels=10**6), picture, random, alone)
            assert np.array_equal(out_CTHW[:, t].transpose(1, 2, 0), alone), (key, t)


def test_hdr_keeps_white_and_grey() -> None:
    # of 203 cd/m², by ST 2084 and BT.2100: a half and three quarters of full scale, to 8 bits
    for transfer, white in (("pq", 0.5807), ("hlg", 0.75)):
        frame = np.full((1, 3, 3), round(255 * white), np.uint8)
        frame[0, 1], frame[0, 2] = 0, 255
        to_sdr(frame, transfer)
        assert 225 <= frame[0, 0].min() <= frame[0, 0].max() < 255, "white, below what is left for highlights"
        assert np.ptp(frame, axis=2).max() <= 2 and frame[0, 1].max() == 0 and frame[0, 2].min() == 255


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"frames": 0}, r"transform\.frames=0"),
        ({"stride": 0}, r"transform\.stride=0"),
        ({"frame_rate": 0.0}, r"transform\.frame_rate=0"),
        ({"frame_rate": 8.0, "stride": 2}, r"transform\.stride=2 counts frames and transform\.frame_rate=8 seconds"),
        ({"kind": "pictures"}, r"transform\.kind=pictures has other settings than videos"),
        ({"min_scale": 0.5}, r"transform\.min_scale below 1 needs"),
    ],
)
def test_settings_that_cant_be_are_one_line(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**settings)


def test_settings_travel_as_json() -> None:
    for given in (config(), config(frame_rate=12.5, short="drop", flip=True, channels=1)):
        stored = json.loads(json.dumps(given.to_dict()))
        assert stored["kind"] == "videos" and read_transform(stored) == given
    assert config().sizes == (5, 32, 32)
