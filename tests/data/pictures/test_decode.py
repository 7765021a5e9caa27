"""Pictures as they come in the wild: each decoded right, or refused with a reason."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data.pictures.config import TransformConfig
from data.pictures.decode import Workspace, decode_picture, picture_bytes
from data.pictures.geometry import Draw
from data.shards.sample import DamagedSampleError
from tests.data.making import bomb, encoded, sample

RGB = TransformConfig(size=16)
GREY = TransformConfig(size=16, channels=1)


def decoded(data: bytes, config: TransformConfig = RGB, max_pixels: int = 10**6) -> np.ndarray:
    pixels = decode_picture(data, config, max_pixels=max_pixels)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == config.channels
    assert pixels.flags["C_CONTIGUOUS"] and pixels.flags["WRITEABLE"], "torch warns of arrays that aren't writable"
    return pixels


def scene() -> np.ndarray:
    """24 × 40, each quarter of another colour."""
    pixels = np.zeros((24, 40, 3), dtype=np.uint8)
    pixels[:12, :20], pixels[:12, 20:] = (200, 30, 30), (30, 200, 30)
    pixels[12:, :20], pixels[12:, 20:] = (30, 30, 200), (200, 200, 30)
    return pixels


def close(left: np.ndarray, right: np.ndarray, most: float = 8.0) -> bool:
    return left.shape == right.shape and float(np.abs(left.astype(int) - right).mean()) < most


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("config", [RGB, GREY])
def test_formats_are_told_by_their_bytes(kind: str, config: TransformConfig) -> None:
    grey = np.asarray(Image.fromarray(scene()).convert("L"))[:, :, None]
    assert close(decoded(encoded(scene(), kind), config), scene() if config is RGB else grey)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_turns_the_picture_upright(orientation: int, kind: str, order: str) -> None:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(scene())
    if orientation in turn:
        stored = stored.transpose(turn[orientation])
    exif = (
        b"Exif\0\0"
        + (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    )
    data = encoded(np.asarray(stored), kind, exif=exif, **({"quality": 95} if kind != "PNG" else {}))
    for config in (RGB, TransformConfig(size=16, resize="area")):
        assert close(decoded(data, config), scene())


def test_a_damaged_exif_block_is_no_reason_to_fail() -> None:
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert close(decoded(data), scene())


def test_cmyk_comes_out_in_its_colours() -> None:
    assert close(decoded(encoded(scene(), "JPEG", mode="CMYK", quality=95)), scene(), most=8)


def test_sixteen_bits_keep_their_upper_eight() -> None:
    deep = (np.arange(24 * 40).reshape(24, 40) * 68).astype(np.uint16)
    for data in (encoded(deep, "PNG"), encoded(deep, "TIFF")):
        np.testing.assert_array_equal(decoded(data, GREY)[:, :, 0], deep >> 8)
        assert close(decoded(data), np.repeat((deep >> 8)[:, :, None], 3, axis=2), most=1)


def test_more_than_sixteen_bits_and_fractions_are_refused() -> None:
    for deep in (np.full((2, 2), 0x10000, np.int32), np.full((2, 2), -1, np.int32)):
        with pytest.raises(DamagedSampleError, match="more than 16 bits"):
            decode_picture(encoded(deep, "TIFF"), TransformConfig(channels=1), max_pixels=100)
    most = decode_picture(encoded(np.array([[0, 0xFFFF]], np.int32), "TIFF"), TransformConfig(channels=1), max_pixels=9)
    assert most.flatten().tolist() == [0, 255]
    with pytest.raises(DamagedSampleError, match="floating-point numbers"):
        decode_picture(encoded(np.ones((2, 2), np.float32), "TIFF"), TransformConfig(channels=1), max_pixels=100)


def test_palettes_bits_and_transparency() -> None:
    palette = encoded(scene(), "PNG", mode="P")
    assert close(decoded(palette), scene(), most=30)
    bits = np.zeros((24, 40), dtype=bool)
    bits[:, 20:] = True
    assert decoded(encoded(bits, "PNG"))[0, [0, 39]].tolist() == [[0] * 3, [255] * 3]
    rgba = np.dstack([scene(), np.full((24, 40), 255, np.uint8)])
    rgba[:, 20:, 3] = 0
    on_white = decoded(encoded(rgba, "PNG"))
    assert (on_white[:, 20:] == 255).all() and (on_white[:, :20] == scene()[:, :20]).all()
    on_black = decoded(encoded(rgba, "WEBP", lossless=True), TransformConfig(size=16, background=0))
    assert (on_black[:, 20:] == 0).all()
    grey = Image.fromarray(scene()[:, :, 0])
    buffer = io.BytesIO()
    grey.save(buffer, "PNG", transparency=200)
    assert (decoded(buffer.getvalue())[:12, :20] == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.fromarray(np.full((24, 40, 3), value, np.uint8)) for value in (40, 120, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert close(decoded(buffer.getvalue()), np.full((24, 40, 3), 40), most=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_truncated_pictures_are_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(DamagedSampleError):
        decoded(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0" * 5000, b"not a picture", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedSampleError):
        decoded(data)


def test_bombs_are_refused_before_decoding() -> None:
    for side in (50_000, 12_000):
        with pytest.raises(DamagedSampleError, match=r"pixels|Bomb"):
            decoded(bomb(side), max_pixels=80_000_000)
    large = simplejpeg.encode_jpeg(np.zeros((1001, 1000, 3), np.uint8))
    with pytest.raises(DamagedSampleError, match="1000x1001 pixels"):
        decoded(large)


def test_a_picture_of_as_many_pixels_as_are_allowed_is_decoded() -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(scene(), kind)
        assert decoded(data, max_pixels=24 * 40).shape == (24, 40, 3)
        with pytest.raises(DamagedSampleError, match="40x24 pixels are more than max_pixels=959"):
            decoded(data, max_pixels=24 * 40 - 1)


def segment(marker: int, contents: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(contents) + 2) + contents


def exif(entries: list[tuple[int, int]], order: str = "<") -> bytes:
    """An EXIF block with short entries (tag, value)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    rows = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    return b"Exif\0\0" + head + struct.pack(order + "IH", 8, len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_found_behind_other_segments_and_entries(order: str) -> None:
    plain = encoded(scene(), "JPEG", quality=95)
    turned = exif([(0x0100, 6), (0x0101, 8), (0x0112, 3)], order)
    for before in (b"", segment(0xFE, b"a comment" * 40), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0") * 2):
        data = plain[:2] + before + segment(0xE1, turned) + plain[2:]
        assert close(decoded(data), scene()[::-1, ::-1]), "orientation 3: half a turn"
    for harmless in (exif([(0x0112, 9)]), exif([(0x0112, 0)]), exif([]), exif([(0x0111, 3)]), b"Exif\0\0"):
        assert close(decoded(plain[:2] + segment(0xE1, harmless) + plain[2:]), scene())


def test_memory_that_is_given_is_used_again_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace()
    first = workspace.memory(100)
    assert first is not None and len(first) == 100
    again = workspace.memory(60)
    assert again is not None and np.shares_memory(first, again)
    monkeypatch.setattr("data.pictures.decode._MOST_KEPT", 1000)
    assert workspace.memory(1001) is None
    larger = workspace.memory(1000)
    assert larger is not None and len(larger) >= 1000
    data = encoded(scene(), "JPEG", quality=95)
    pixels = decode_picture(data, RGB, max_pixels=10**6, workspace=Workspace())
    assert np.array_equal(pixels, decoded(data))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_jpeg_is_decoded_smaller_only_if_what_is_kept_of_it_still_covers_the_target(fit: str) -> None:
    photo = np.asarray(Image.fromarray(scene()).resize((400, 240)))
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(photo), quality=95)
    wanted = {"crop": {120: (120, 200), 121: (240, 400)}, "pad": {200: (120, 200), 201: (240, 400)}}
    wanted["stretch"] = {120: (120, 200), 121: (240, 400)}
    for size, shape in wanted[fit].items():
        config = TransformConfig(size=size, resize="area", fit=fit)  # type: ignore[arg-type]
        assert decode_picture(data, config, max_pixels=10**6).shape[:2] == shape, size
        bicubic = TransformConfig(size=size, fit=fit)  # type: ignore[arg-type]
        assert decode_picture(data, bicubic, max_pixels=10**6).shape[:2] == (240, 400)
    drawn = Draw(flip=0.0, x=0.0, y=0.0, scale=0.0)  # a square of 120 of the 240 rows
    for size, shape in ((60, (120, 200)), (61, (240, 400))):
        config = TransformConfig(size=size, resize="area", random_crop=True, min_scale=0.5)
        assert decode_picture(data, config, max_pixels=10**6, random=drawn).shape[:2] == shape


def test_only_upright_jpegs_are_decoded_smaller() -> None:
    photo = np.asarray(Image.fromarray(scene()).resize((400, 240)))
    plain = simplejpeg.encode_jpeg(np.ascontiguousarray(photo), quality=95)
    config = TransformConfig(size=30, resize="area")
    for block, smaller in ((exif([]), True), (exif([(0x0112, 1)]), True), (exif([(0x0112, 6)]), False)):
        found = decode_picture(plain[:2] + segment(0xE1, block) + plain[2:], config, max_pixels=10**6)
        assert (max(found.shape) < 400) == smaller


def test_a_jpeg_with_odd_bytes_behind_it_is_still_read() -> None:
    data = encoded(scene(), "JPEG", quality=95)
    assert close(decoded(data + b"trailing bytes"), scene())


def test_area_decodes_large_jpegs_smaller_but_not_too_small() -> None:
    photo = np.asarray(Image.fromarray(scene()).resize((400, 240)))
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(photo), quality=95)
    small = decode_picture(data, TransformConfig(size=30, resize="area"), max_pixels=10**6)
    assert small.shape == (60, 100, 3) or small.shape == (30, 50, 3)
    assert min(small.shape[:2]) >= 30
    assert decode_picture(data, TransformConfig(size=200, resize="area"), max_pixels=10**6).shape == (240, 400, 3)


def test_the_picture_member_is_found_by_its_last_extension() -> None:
    assert bytes(picture_bytes(sample(cls=b"1", photo_png=b"x"))) == b"x"
    with pytest.raises(DamagedSampleError, match="no picture among cls, txt"):
        picture_bytes(sample(cls=b"1", txt=b""))


def test_the_same_fault_is_told_in_the_same_words() -> None:
    """So that a tally counts it as one reason."""
    told = set()
    for size in (40, 50, 60):
        with pytest.raises(DamagedSampleError) as error:
            decode_picture(b"no picture" + bytes(size), TransformConfig(size=8), max_pixels=100)
        told.add(str(error.value))
    (words,) = told
    assert "UnidentifiedImageError" in words and "0x" not in words
