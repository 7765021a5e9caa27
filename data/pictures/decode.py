"""From encoded bytes to pixels: pictures of any format and mode are decoded, or refused with a reason.

The format is recognised by the first bytes, not by the extension. JPEGs go through libjpeg-turbo (simplejpeg), all
others through PIL. Shapes: H W pixels, C channels.
"""

import io
import math
import threading
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from data.pictures.config import FrameConfig
from data.pictures.geometry import Draw, crop_box, target_size
from data.pictures.png import without_large_texts
from data.shards.sample import DamagedSampleError, Sample, picture_member
from launch.command.cli import reason

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_ORIENTATION = 0x0112
_MOST_KEPT = 64_000_000


class Workspace(threading.local):
    """Memory that each thread reuses for decoding: new memory costs a page fault for every 4 KB of pixels."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> np.ndarray | None:
        """At least `size` bytes, valid until the next call; None for more than should be kept."""
        if size > _MOST_KEPT:
            return None
        if size > len(self._memory):
            self._memory = np.empty(size, np.uint8)
        return self._memory


def picture_bytes(sample: Sample) -> memoryview:
    """The contents of the sample's picture member; DamagedSampleError without one."""
    return sample.files[picture_member(sample)]


def decode_picture(
    data: bytes | memoryview,
    config: FrameConfig,
    *,
    max_pixels: int,
    random: Draw | None = None,
    workspace: Workspace | None = None,
) -> np.ndarray:
    """Pixels of an encoded picture, uint8 (H, W, C) with `config.channels` channels.

    Rotated by its EXIF orientation; 16 bits become 8; transparent parts show `config.background`; of an animation the
    first frame. With resize=area a JPEG may be decoded smaller, but not smaller than the target needs.
    DamagedSampleError for what can't be decoded and, before decoding, for more than `max_pixels`. With a `workspace`
    the pixels may be in it: they are valid until it is used again.
    """
    if not len(data):
        raise DamagedSampleError("no bytes")
    if bytes(data[:3]) == b"\xff\xd8\xff":
        pixels = _decode_jpeg(data, config, max_pixels, random, workspace)
        if pixels is not None:
            return pixels
    return _decode_other(data, config, max_pixels)


def _decode_jpeg(
    data: bytes | memoryview, config: FrameConfig, max_pixels: int, random: Draw | None, workspace: Workspace | None
) -> np.ndarray | None:
    """The picture by libjpeg-turbo, or None for what PIL should try (CMYK, defects that PIL tolerates)."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        check_pixels(width, height, max_pixels)
        if colours not in ("YCbCr", "Gray", "RGB"):
            return None
        turn = _jpeg_orientation(data)
        least_w, least_h = _least_size(width, height, config, random) if turn == 1 else (0, 0)
        pixels_HWC = simplejpeg.decode_jpeg(
            data,
            colorspace="RGB" if config.channels == 3 else "GRAY",
            min_width=least_w,
            min_height=least_h,
            min_factor=2 if least_w else 1,
            fastdct=config.resize == "area",
            fastupsample=config.resize == "area",
            buffer=None if workspace is None else workspace.memory(height * width * config.channels),
        )
    except DamagedSampleError:
        raise
    except ValueError:
        return None
    return _turned(pixels_HWC, turn)


def _least_size(width: int, height: int, config: FrameConfig, random: Draw | None) -> tuple[int, int]:
    """Smallest width and height to decode at so that the cropped part still covers the target; 0: all of it."""
    if config.resize != "area":
        return 0, 0
    left, upper, right, lower = crop_box(width, height, config, random)
    target_w, target_h = target_size(width, height, config)
    return math.ceil(width * target_w / (right - left)), math.ceil(height * target_h / (lower - upper))


def opened(data: bytes | memoryview) -> Image.Image:
    """The picture as PIL opens it, of a format that runs no program; PIL's own exceptions where it can't."""
    return Image.open(io.BytesIO(without_large_texts(data)), formats=_FORMATS)


def _decode_other(data: bytes | memoryview, config: FrameConfig, max_pixels: int) -> np.ndarray:
    try:
        with opened(data) as image:
            check_pixels(*image.size, max_pixels)
            return pixels_of(image, config)
    except DamagedSampleError:
        raise
    except Exception as error:  # PIL raises all kinds of exceptions on damaged input
        raise DamagedSampleError(f"can't be decoded: {reason(error)}"[:200]) from error


def pixels_of(image: Image.Image, config: FrameConfig) -> np.ndarray:
    """Pixels of a picture that PIL opened, as `decode_picture` returns them: uint8 (H, W, C).

    DamagedSampleError for pixels of other than 8 or 16 bits; PIL's own exceptions where it can't decode them.
    """
    turn = image.getexif().get(_ORIENTATION, 1) if image.format != "GIF" else 1
    image.load()
    pixels = np.array(_eight_bit(image, config))  # a copy: torch warns about read-only memory
    return _turned(pixels if pixels.ndim == 3 else pixels[:, :, None], turn)


def _eight_bit(image: Image.Image, config: FrameConfig) -> Image.Image:
    """The picture in mode RGB or L, on the background where it is transparent."""
    mode = "RGB" if config.channels == 3 else "L"
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise DamagedSampleError("its pixels have more than 16 bits")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise DamagedSampleError("its pixels are floating-point numbers")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, (config.background,) * 3 + (255,))
        image = Image.alpha_composite(behind, image)
    return image if image.mode == mode else image.convert(mode)


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """DamagedSampleError for a picture of more than `max_pixels`."""
    if width * height > max_pixels:
        raise DamagedSampleError(f"{width}x{height} pixels are more than max_pixels={max_pixels}")


def _jpeg_orientation(data: bytes | memoryview) -> int:
    """The EXIF orientation of a JPEG, from the application segments before the picture; 1 (upright) without one."""
    at = 2
    while at + 10 < len(data) and data[at] == 0xFF and (0xE0 <= data[at + 1] <= 0xEF or data[at + 1] == 0xFE):
        size = 2 + (data[at + 2] << 8) + data[at + 3]
        if data[at + 1] == 0xE1 and bytes(data[at + 4 : at + 10]) == b"Exif\0\0":
            return _tiff_orientation(bytes(data[at + 10 : at + size]))
        at += size
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(offset: int, size: int) -> int:
        return int.from_bytes(tiff[offset : offset + size], order)

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), 512)):
        at = directory + 2 + 12 * entry
        if number(at, 2) == _ORIENTATION:
            return number(at + 8, 2)
    return 1


def _turned(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """The picture upright, by its EXIF orientation: 2 to 8, all else is upright already."""
    if orientation in (5, 6, 7, 8):
        pixels_HWC = pixels_HWC.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    return np.ascontiguousarray(pixels_HWC) if not pixels_HWC.flags["C_CONTIGUOUS"] else pixels_HWC
