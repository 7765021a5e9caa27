"""Checks that a picture decodes and has the right extension; draws it for a contact sheet."""

from PIL import Image

from data.pictures.config import TransformConfig
from data.pictures.convert import extension_of
from data.pictures.decode import decode_picture, picture_bytes
from data.shards.sample import DamagedSampleError, Sample, picture_member

_ALIKE = {
    **dict.fromkeys(("jpeg", "jpe", "jfif", "pjpeg", "pjp"), "jpg"),
    **{"apng": "png", "tiff": "tif", "j2k": "jp2", "img": ""},
}
"""What other extensions of pictures mean; empty: any format."""
_MAX_PIXELS = 100_000_000


def check(sample: Sample, max_pixels: int) -> tuple[bytes, str]:
    """The picture's bytes, and a note where its extension names another format. DamagedSampleError if damaged."""
    name = picture_member(sample)
    contents = bytes(sample.files[name])
    decode_picture(contents, TransformConfig(size=1, fit="stretch"), max_pixels=max_pixels)
    called = name.rpartition(".")[2]
    try:
        real = extension_of(contents)
    except DamagedSampleError:
        return contents, ""
    return contents, "" if _ALIKE.get(called, called) in (real, "") else f"called .{called}, is {real}"


def thumbnail(sample: Sample, side: int) -> Image.Image:
    """The picture, at most side×side pixels; small ones are enlarged by a whole factor."""
    # resize=area lets large JPEGs be decoded at a smaller scale.
    plain = TransformConfig(size=side, fit="pad", resize="area")
    picture = Image.fromarray(decode_picture(picture_bytes(sample), plain, max_pixels=_MAX_PIXELS))
    picture.thumbnail((side, side))
    factor = side // max(picture.size)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
