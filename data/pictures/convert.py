"""How a picture is packed: kept as it is, or cropped, resized and encoded again."""

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
from PIL import Image

from data.pictures.config import TransformConfig
from data.pictures.decode import check_pixels, decode_picture
from data.pictures.png import without_large_texts
from data.shards.sample import DamagedSampleError
from data.shards.signature import DECODED, picture_format
from launch.command.checks import at_least, check

_SAVED = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_FILTER = Image.Resampling.BICUBIC


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What is done to each picture."""

    size: int | None = None
    """Side in pixels (see `fit`); none: the picture keeps its size."""
    fit: Literal["crop", "shorter", "stretch"] = "crop"
    """crop: the middle square, size×size; shorter: the shorter side becomes `size` (a smaller picture stays as it is);
    stretch: the whole picture, size×size."""
    format: Literal["keep", "jpg", "png", "webp"] = "keep"
    """keep: the original bytes where the size is kept, else the original's format (arrays: png); webp is lossless."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    check: Literal["none", "header", "decode"] = "header"
    """How pictures whose bytes are kept are checked: none; header (finds other files and decompression bombs); decode
    (finds truncated ones too). Those that fail are left out and listed."""
    max_pixels: int = 100_000_000
    """A picture with more pixels is left out."""

    def __post_init__(self) -> None:
        at_least(1, self, "size", "max_pixels", prefix="convert.")
        check("convert.quality", self.quality, 1 <= self.quality <= 100, "1 to 100; 95 is hardly lossy")

    @property
    def keeps_bytes(self) -> bool:
        """Whether encoded pictures go into the shards as they are."""
        return self.size is None and self.format == "keep"


def convert(encoded: bytes | None, array: np.ndarray | None, config: ConvertConfig) -> tuple[str, bytes]:
    """Extension and contents of the member that holds a picture, given encoded or as uint8 (H, W), (H, W, 3 or 4).

    DamagedSampleError where it is damaged or too large.
    """
    if encoded is None:
        assert array is not None, "a sample has bytes or an array"
        extension: str = "png" if config.format == "keep" else config.format
        return extension, encode(resized(Image.fromarray(array), config), extension, config.quality)
    if not encoded:
        raise DamagedSampleError("no bytes")
    extension = extension_of(encoded)
    if config.keeps_bytes:
        _check(encoded, config)
        return extension, encoded
    channels = 1 if _is_grey(encoded) else 3
    # Pictures of any mode become upright RGB or grey ones in 8 bits.
    plain = TransformConfig(size=config.size or 1, channels=channels, fit="stretch")
    pixels_HWC = decode_picture(encoded, plain, max_pixels=config.max_pixels)
    image = Image.fromarray(pixels_HWC[:, :, 0] if channels == 1 else pixels_HWC)
    if config.format != "keep":
        extension = config.format
    elif extension not in _SAVED:
        extension = "png"
    return extension, encode(resized(image, config), extension, config.quality)


def extension_of(encoded: bytes) -> str:
    """The extension that fits the first bytes, whatever the file is called. DamagedSampleError for no picture."""
    extension = picture_format(encoded)
    if extension is None:
        raise DamagedSampleError("not a picture of a known format")
    if extension not in DECODED:
        raise DamagedSampleError(f"{extension} pictures can't be decoded")
    return extension


def encode(image: Image.Image, extension: str, quality: int) -> bytes:
    """The picture as `jpg` (full chroma from quality 90 on), `png` or lossless `webp`."""
    options: dict[str, dict[str, Any]] = {
        "jpg": {"quality": quality, "subsampling": 0 if quality >= 90 else 2},
        "webp": {"lossless": True, "quality": 50, "method": 4},
    }
    if extension == "jpg" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, _SAVED[extension], **options.get(extension, {}))
    return buffer.getvalue()


def resized(image: Image.Image, config: ConvertConfig) -> Image.Image:
    """The picture in the size that the settings say."""
    if config.size is None:
        return image
    width, height, size = *image.size, config.size
    if config.fit == "shorter":
        scale = size / min(width, height)
        if scale >= 1:
            return image
        return image.resize((max(size, round(width * scale)), max(size, round(height * scale))), _FILTER)
    box = (0, 0, width, height)
    if config.fit == "crop":
        side = min(width, height)
        left, upper = (width - side) // 2, (height - side) // 2
        box = (left, upper, left + side, upper + side)
    return image.resize((size, size), _FILTER, box=box)


def _check(encoded: bytes, config: ConvertConfig) -> None:
    if config.check == "decode":
        decode_picture(encoded, TransformConfig(size=1, fit="stretch"), max_pixels=config.max_pixels)
    elif config.check == "header":
        check_pixels(*_size(encoded), config.max_pixels)


def _size(encoded: bytes) -> tuple[int, int]:
    """Width and height, from the header: libjpeg-turbo's where it can, else PIL's."""
    if encoded.startswith(b"\xff\xd8\xff"):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
            return width, height
        except ValueError:
            pass  # PIL reads some JPEGs that libjpeg-turbo does not.
    return _opened(encoded).size


def _is_grey(encoded: bytes) -> bool:
    image = _opened(encoded)
    return image.mode in ("1", "L") or image.mode.startswith("I")


def _opened(encoded: bytes) -> Image.Image:
    """The picture with only its header read."""
    try:
        return Image.open(io.BytesIO(without_large_texts(encoded)))
    except Exception as error:  # PIL raises all kinds of exceptions on damaged input
        raise DamagedSampleError(f"can't be opened: {type(error).__name__}") from error
