"""Packed pictures: kept as they are, or made another size or format."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data.pictures.convert import ConvertConfig, convert, encode, extension_of
from data.shards.sample import DamagedSampleError
from tests.data.making import encoded, jpeg


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def opened(contents: bytes) -> Image.Image:
    return Image.open(io.BytesIO(contents))


def test_bytes_are_kept_where_nothing_is_asked_for() -> None:
    for check in ("none", "header", "decode"):
        config = ConvertConfig(check=check)  # type: ignore[arg-type]
        assert config.keeps_bytes
        assert convert(jpeg(1), None, config) == ("jpg", jpeg(1))
    assert not ConvertConfig(size=8).keeps_bytes and not ConvertConfig(format="png").keeps_bytes


def test_what_is_checked_of_kept_bytes() -> None:
    truncated = encoded(noise(64, 64), "PNG")[:-2000]
    convert(truncated, None, ConvertConfig(check="none"))
    convert(truncated, None, ConvertConfig(check="header"))
    with pytest.raises(DamagedSampleError):
        convert(truncated, None, ConvertConfig(check="decode"))
    exact = ConvertConfig(max_pixels=24 * 32)
    convert(jpeg(1), None, exact)
    for check in ("header", "decode"):
        with pytest.raises(DamagedSampleError, match="32x24 pixels are more than max_pixels=767"):
            convert(jpeg(1), None, ConvertConfig(max_pixels=767, check=check))  # type: ignore[arg-type]
    convert(jpeg(1), None, ConvertConfig(max_pixels=767, check="none"))
    with pytest.raises(DamagedSampleError, match="no bytes"):
        convert(b"", None, ConvertConfig())


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        ("crop", 8, (8, 8)),
        ("stretch", 8, (8, 8)),
        ("shorter", 8, (12, 8)),
        ("shorter", 7, (10, 7)),
        ("shorter", 20, (30, 20)),
        ("shorter", 50, (30, 20)),
        ("crop", 50, (50, 50)),
    ],
)
def test_sizes_and_what_is_in_them(fit: str, size: int, expected: tuple[int, int]) -> None:
    pixels = noise(20, 30)
    extension, contents = convert(None, pixels, ConvertConfig(size=size, fit=fit))  # type: ignore[arg-type]
    assert extension == "png"
    found = opened(contents)
    assert found.size == expected
    whole = Image.fromarray(pixels)
    if whole.size != expected:
        box = (5, 0, 25, 20) if fit == "crop" else (0, 0, 30, 20)
        whole = whole.resize(expected, Image.Resampling.BICUBIC, box=box)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(whole)).max() <= 1


def test_the_shorter_side_of_a_tall_picture_is_its_width() -> None:
    for size, expected in ((8, (8, 12)), (7, (7, 10))):
        _, contents = convert(None, noise(30, 20), ConvertConfig(size=size, fit="shorter"))
        assert opened(contents).size == expected


def test_a_tall_picture_keeps_its_middle_too() -> None:
    pixels = np.zeros((10, 4, 3), np.uint8)
    pixels[3:7] = 200
    _, contents = convert(None, pixels, ConvertConfig(size=4))
    assert (np.asarray(opened(contents)) == 200).all()


def test_the_format_is_kept_where_it_can_be_written() -> None:
    for kind, extension in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "png"), ("TIFF", "png")):
        found, contents = convert(encoded(noise(20, 30), kind), None, ConvertConfig(size=8))
        assert (found, opened(contents).format) == (extension, {"jpg": "JPEG"}.get(extension, extension.upper()))
        found, contents = convert(encoded(noise(20, 30), kind), None, ConvertConfig(size=8, format="webp"))
        assert (found, opened(contents).format) == ("webp", "WEBP")


def test_grey_pictures_stay_grey() -> None:
    for pixels, mode in ((noise(9, 9, 1), "L"), (noise(9, 9), "RGB")):
        _, contents = convert(encoded(pixels, "PNG"), None, ConvertConfig(size=8))
        assert opened(contents).mode == mode
    deep = encoded(np.full((4, 4), 0x8000, np.int32), "TIFF")
    _, contents = convert(deep, None, ConvertConfig(format="png"))
    assert opened(contents).mode == "L" and np.asarray(opened(contents))[0, 0] == 0x80
    _, contents = convert(encoded(noise(9, 9, 1), "PNG", "1"), None, ConvertConfig(size=4))
    assert opened(contents).mode == "L"


def test_lossless_formats_lose_nothing_and_jpegs_are_of_their_quality() -> None:
    pixels = noise(16, 16)
    for extension in ("png", "webp"):
        assert np.array_equal(np.asarray(opened(encode(Image.fromarray(pixels), extension, 1))), pixels)
    sizes = [len(encode(Image.fromarray(pixels), "jpg", quality)) for quality in (10, 89, 90, 100)]
    assert sizes == sorted(sizes)
    for quality, colours in ((89, "420"), (90, "444")):
        header = simplejpeg.decode_jpeg_header(encode(Image.fromarray(pixels), "jpg", quality))
        assert header[3] == colours, "full chroma from 90 on"
    assert opened(encode(Image.fromarray(noise(8, 8, 4)), "jpg", 90)).mode == "RGB"


def test_what_is_no_picture_is_refused_with_the_reason() -> None:
    with pytest.raises(DamagedSampleError, match="not a picture of a known format"):
        extension_of(b"plain text, no picture")
    with pytest.raises(DamagedSampleError, match="can't be opened: UnidentifiedImageError"):
        convert(b"\x89PNG\r\n\x1a\n" + bytes(30), None, ConvertConfig())


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({"quality": 1}, True),
        ({"quality": 100}, True),
        ({"quality": 0}, False),
        ({"quality": 101}, False),
        ({"size": 1}, True),
        ({"size": 0}, False),
        ({"max_pixels": 1}, True),
        ({"max_pixels": 0}, False),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], good: bool) -> None:
    if good:
        ConvertConfig(**values)
        return
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"convert.{name}={value}"):
        ConvertConfig(**values)
