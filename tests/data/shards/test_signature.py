"""Formats from first bytes: what PIL writes, what it can't, and what is no picture."""

import io

import pytest
from PIL import Image

from data.pictures.convert import extension_of
from data.shards.sample import DamagedSampleError
from data.shards.signature import DECODED, picture_format


def _saved(name: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4)).save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("contents", "extension"),
    [
        (_saved("JPEG"), "jpg"),
        (_saved("PNG"), "png"),
        (_saved("WEBP"), "webp"),
        (_saved("GIF"), "gif"),
        (_saved("BMP"), "bmp"),
        (_saved("TIFF"), "tif"),
        (_saved("TIFF", big_tiff=True), "tif"),
        (_saved("PPM"), "ppm"),
        (_saved("PPM", "L"), "pgm"),
        (_saved("PPM", "1"), "pbm"),
        (_saved("JPEG2000"), "jp2"),
        (_saved("JPEG2000", no_jp2=True), "jp2"),
        (_saved("AVIF"), "avif"),
        (b"P3 # a comment\n1 1 255 0 0 0\n", "ppm"),
    ],
)
def test_pictures_are_known_by_their_first_bytes(contents: bytes, extension: str) -> None:
    assert picture_format(contents) == picture_format(memoryview(contents)[:64]) == extension
    assert extension in DECODED
    assert extension_of(contents) == extension


@pytest.mark.parametrize(
    ("contents", "extension"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "avif"),
        (b"\xff\x0a\xfa\x7f", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    ],
)
def test_formats_of_phones_are_named(contents: bytes, extension: str) -> None:
    assert picture_format(contents) == extension


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"B",
        b"BMW cars\nare a text, not a bitmap",
        b"P5",
        b"P52 planes",
        b"GIF",
        b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ",
        b"\0\0\0\x18ftypisom\0\0\0\0mp41",
        b"RIFF\0\0\0\0WAVE",
        b"caption",
    ],
)
def test_other_files_are_no_pictures(contents: bytes) -> None:
    assert picture_format(contents) is None
    with pytest.raises(DamagedSampleError, match="not a picture of a known format"):
        extension_of(contents)


def test_a_picture_that_cannot_be_decoded_is_refused_by_name() -> None:
    with pytest.raises(DamagedSampleError, match="heic pictures can't be decoded"):
        extension_of(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
