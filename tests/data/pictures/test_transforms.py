"""Crop, resize, pad, flip: geometry, seeds, and agreement with PIL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.media import read_transform
from data.pictures.config import TransformConfig
from data.pictures.geometry import Draw, crop_box, draw, target_size
from data.pictures.transforms import apply, to_float, to_uint8


def transformed(picture: np.ndarray, config: TransformConfig, key: str | None = None) -> np.ndarray:
    out = np.empty((config.size, config.size, config.channels), dtype=np.uint8)
    apply(picture, config, draw(0, 0, key) if key else None, out)
    return out


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    return np.asarray(small)[:, :, :channels].copy()


def test_bicubic_is_pils_to_two_of_255() -> None:
    picture = photo(100, 140)
    ours = transformed(picture, TransformConfig(size=32))
    square = Image.fromarray(picture[:, 20:120])
    theirs = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - theirs).max() <= 2


@pytest.mark.parametrize(("resize", "mode"), [("bicubic", "bicubic"), ("area", "bilinear")])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_torchs_interpolation_wherever_it_is_written(resize: Any, mode: str, channels: int) -> None:
    picture = np.ascontiguousarray(photo(100, 140, channels))
    square = torch.from_numpy(picture[:, 20:120]).permute(2, 0, 1)[None]
    expected = functional.interpolate(square, size=(32, 32), mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()
    config = TransformConfig(size=32, channels=channels, resize=resize, flip=True)
    planes = np.empty((channels, 32, 32), np.uint8).transpose(1, 2, 0)
    mixed = np.empty((32, 32, channels), np.uint8)
    kinds = set()
    for out in (planes, mixed):
        for random in (None, *(draw(0, 0, f"k{i}") for i in range(8))):
            apply(picture, config, random, out)
            flipped = random is not None and random.flip < 0.5
            kinds.add(flipped)
            np.testing.assert_array_equal(out, expected[:, ::-1] if flipped else expected)
    assert kinds == {True, False}


def test_area_keeps_the_mean() -> None:
    picture = photo(128, 128)
    ours = transformed(picture, TransformConfig(size=16, resize="area"))
    np.testing.assert_allclose(ours.mean((0, 1)), picture.mean((0, 1)), atol=2)


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    picture = photo(20, 30)
    np.testing.assert_array_equal(transformed(picture, TransformConfig(size=20)), picture[:, 5:25])


def test_pad_surrounds_and_never_enlarges() -> None:
    digit = photo(28, 28, 1)
    out = transformed(digit, TransformConfig(size=32, channels=1, fit="pad", background=0))
    np.testing.assert_array_equal(out[2:30, 2:30], digit)
    assert out[:2].max() == 0 and out[:, 30:].max() == 0
    wide = transformed(photo(20, 80), TransformConfig(size=40, fit="pad", background=7))
    assert (wide[:15] == 7).all() and (wide[25:] == 7).all() and (wide[15:25] != 7).any()


def test_flip_depends_on_key_and_epoch_alone() -> None:
    config = TransformConfig(size=8, flip=True)
    picture = photo(8, 8)
    kinds = {transformed(picture, config, f"k{i}").tobytes() for i in range(20)}
    assert kinds == {picture.tobytes(), picture[:, ::-1].tobytes()}
    assert draw(1, 2, "a") == draw(1, 2, "a") != draw(1, 3, "a")
    assert transformed(picture, config).tobytes() == picture.tobytes()


def test_the_augmentation_is_pinned() -> None:
    """A change of these numbers changes what every run in progress sees next."""
    found = [draw(1, 2, "a"), draw(0, 0, "s00-0001")]
    assert [(one.flip, one.x, one.y, one.scale) for one in found] == [
        (0.46791538808600996, 0.7781412851876601, 0.8020383063072221, 0.7610291831431395),
        (0.739874845548138, 0.6357265540907435, 0.03686904625846682, 0.06704393515856728),
    ]


def test_half_of_the_draws_flip() -> None:
    config, picture = TransformConfig(size=8, flip=True), photo(8, 8)
    for chance, flipped in ((0.0, True), (0.4999, True), (0.5, False), (0.9999, False)):
        out = np.empty((8, 8, 3), np.uint8)
        apply(picture, config, Draw(flip=chance, x=0, y=0, scale=0), out)
        np.testing.assert_array_equal(out, picture[:, ::-1] if flipped else picture)


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(7, 4, (1, 0, 5, 4)), (4, 7, (0, 1, 4, 5)), (5, 5, (0, 0, 5, 5)), (1, 9, (0, 4, 1, 5))],
)
def test_the_middle_square(width: int, height: int, box: tuple[int, ...]) -> None:
    random = Draw(flip=0.9, x=0.9, y=0.9, scale=0.1)
    assert crop_box(width, height, TransformConfig(size=8), None) == box
    assert crop_box(width, height, TransformConfig(size=8), random) == box, "only random_crop draws the place"
    assert crop_box(width, height, TransformConfig(size=8, random_crop=True), None) == box, "as in evaluation"
    assert crop_box(width, height, TransformConfig(size=8, fit="pad"), None) == (0, 0, width, height)


def test_a_random_square_is_drawn_by_its_numbers() -> None:
    """The side between min_scale and 1 of the shorter one, and the place among all that the square can have."""
    config = TransformConfig(size=8, random_crop=True, min_scale=0.5)
    for scale, x, y, box in (
        (0.0, 0.0, 0.0, (0, 0, 10, 10)),
        (0.999, 0.999, 0.999, (10, 0, 30, 20)),
        (0.5, 0.5, 0.25, (8, 1, 23, 16)),
        (0.2, 0.999, 0.999, (18, 8, 30, 20)),
    ):
        assert crop_box(30, 20, config, Draw(flip=0, x=x, y=y, scale=scale)) == box
    tiny = TransformConfig(size=8, random_crop=True, min_scale=0.01)
    assert crop_box(3, 3, tiny, Draw(flip=0, x=0.5, y=0.5, scale=0)) == (1, 1, 2, 2), "a pixel at least"


def test_the_size_before_padding() -> None:
    config = TransformConfig(size=40, fit="pad")
    for size, target in (((80, 20), (40, 10)), ((20, 80), (10, 40)), ((30, 20), (30, 20)), ((400, 1), (40, 1))):
        assert target_size(*size, config) == target
    assert target_size(80, 20, TransformConfig(size=40)) == (40, 40)


def test_padding_puts_the_picture_in_the_middle() -> None:
    for size in (7, 8):
        out = transformed(photo(3, 2), TransformConfig(size=size, fit="pad", background=9))
        inside = (out != 9).any(2)
        top, left = (size - 3) // 2, (size - 2) // 2
        np.testing.assert_array_equal(out[top : top + 3, left : left + 2], photo(3, 2))
        assert inside.sum() <= 6 and not inside[:top].any() and not inside[top + 3 :].any()
        assert not inside[:, :left].any() and not inside[:, left + 2 :].any()


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.05, 1.0), st.text(max_size=5))
def test_random_squares_lie_in_the_picture(width: int, height: int, least: float, key: str) -> None:
    config = TransformConfig(size=8, random_crop=True, min_scale=least)
    left, upper, right, lower = crop_box(width, height, config, draw(0, 0, key))
    assert 0 <= left < right <= width and 0 <= upper < lower <= height
    assert right - left == lower - upper >= max(1, round(least * min(width, height)) - 1)


def test_to_float_and_back_is_exact() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 4, 4).permute(0, 1, 3, 2)
    x = to_float(pixels)
    assert x.min() == -1 and x.max() == 1 and x.is_contiguous()
    assert torch.equal(to_uint8(x), pixels)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_config_travels_as_a_dict() -> None:
    config = TransformConfig(size=32, channels=1, fit="pad", background=0)
    assert read_transform(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown keys colour"):
        read_transform({"colour": 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": 0}, "transform.size=0"),
        ({"channels": 4}, "transform.channels=4"),
        ({"min_scale": 0.5}, "random_crop"),
        ({"random_crop": True, "fit": "pad"}, "fit=crop"),
        ({"background": 300}, "0..255"),
    ],
)
def test_wrong_values_are_named(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransformConfig(**values)
