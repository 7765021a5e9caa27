"""PNGs with texts larger than PIL allows: they decode to the same pixels, and others stay as they are."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data.pictures.config import TransformConfig
from data.pictures.convert import ConvertConfig, convert
from data.pictures.decode import decode_picture
from data.pictures.png import without_large_texts

PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
LARGE = b"workflow " * 300_000


def chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def picture(*chunks: bytes, late: bool = False) -> bytes:
    """A PNG with further chunks before its pixels, or after them."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    plain = buffer.getvalue()
    at = plain.index(b"IEND") - 4 if late else plain.index(b"IDAT") - 4
    return plain[:at] + b"".join(chunks) + plain[at:]


TEXTS = {
    "zTXt": chunk(b"zTXt", b"prompt\0\0" + zlib.compress(LARGE)),
    "iTXt": chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(LARGE)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(LARGE)),
    "many": b"".join(chunk(b"zTXt", b"p%d\0\0" % i + zlib.compress(bytes(2**20 - 9))) for i in range(70)),
    "tEXt": b"".join(chunk(b"tEXt", b"p%d\0" % i + b"x" * 2**24) for i in range(5)),
}


def decoded(data: bytes) -> np.ndarray:
    return decode_picture(data, TransformConfig(size=8), max_pixels=1000)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", list(TEXTS))
def test_large_texts_do_not_cost_the_picture(kind: str, late: bool) -> None:
    data = picture(TEXTS[kind], late=late)
    if kind != "iCCP" or not late:
        with pytest.raises(ValueError, match="MAX_TEXT"), Image.open(io.BytesIO(data)) as image:
            image.load()
    np.testing.assert_array_equal(decoded(data), PIXELS)
    extension, contents = convert(data, None, ConvertConfig(check="decode"))
    assert extension == "png" and contents == data, "packing keeps the bytes"
    _, smaller = convert(data, None, ConvertConfig(size=4))
    assert Image.open(io.BytesIO(smaller)).size == (4, 4)


def test_only_what_is_too_large_is_left_out() -> None:
    small = chunk(b"iTXt", b"title\0\0\0\0\0" + b"a title") + chunk(b"zTXt", b"note\0\0" + zlib.compress(b"a note"))
    data = picture(small, TEXTS["zTXt"])
    kept = without_large_texts(data)
    assert bytes(kept) == picture(small)
    image = Image.open(io.BytesIO(kept))
    assert isinstance(image, PngImagePlugin.PngImageFile) and image.text == {"title": "a title", "note": "a note"}


def test_all_others_are_the_same_object() -> None:
    for data in (
        picture(),
        picture(chunk(b"tEXt", b"k\0v")),
        b"",
        b"\x89PNG\r\n\x1a\n",
        picture()[:40],
        b"\xff\xd8\xff",
    ):
        assert without_large_texts(data) is data


def test_the_orientation_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    plain = exif.tobytes().removeprefix(b"Exif\0\0")
    np.testing.assert_array_equal(decoded(picture(TEXTS["iTXt"], chunk(b"eXIf", plain))), PIXELS[::-1, ::-1])
