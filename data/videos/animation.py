"""Clips as animated WebP, without loss, and back. Shapes: C channels, T frames, H W pixels."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

RATE = 8.0
"""Frames a second at which clips are shown that have no rate."""
LEAST = 10
"""Milliseconds of a frame: browsers show shorter ones for a tenth of a second."""


def milliseconds(rate: float | None) -> int:
    """How long a frame is shown."""
    return max(LEAST, round(1000 / (rate or RATE)))


def images_of(x_CTHW: np.ndarray) -> list[Image.Image]:
    """The frames of a uint8 clip with 1 or 3 channels, as RGB pictures."""
    frames_THWC = np.broadcast_to(x_CTHW, (3, *x_CTHW.shape[1:])).transpose(1, 2, 3, 0)
    return [Image.fromarray(np.ascontiguousarray(frame_HWC)) for frame_HWC in frames_THWC]


def webp(images: Sequence[Image.Image], rate: float | None) -> bytes:
    """An endless animation of some pictures; equal neighbours become one that is shown for longer."""
    first, *others = images
    buffer = io.BytesIO()
    options = {"lossless": True, "quality": 40, "method": 2, "loop": 0, "duration": milliseconds(rate)}
    first.save(buffer, format="WEBP", save_all=True, append_images=others, **options)
    return buffer.getvalue()


def frames_of(contents: bytes, rate: float | None, channels: int, frames: int) -> np.ndarray:
    """The clip x_CTHW of so many frames that `webp` was given; they are counted by their times.

    Of a clip in which nothing moves WebP keeps a single frame without a time: the last frame is held to the end.
    """
    each, found = milliseconds(rate), list[np.ndarray]()
    with Image.open(io.BytesIO(contents)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = np.atleast_3d(np.asarray(image.convert("L" if channels == 1 else "RGB")))
            found += [pixels.transpose(2, 0, 1)] * max(1, round(image.info.get("duration", each) / each))
    found += [found[-1]] * (frames - len(found))
    return np.stack(found[:frames], axis=1)


def every_frame(images: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """An endless animation that has all the pictures as frames of their own, shown for so many milliseconds.

    Other than `webp` (and PIL's GIF), which make equal neighbours one frame. Each frame is coded by itself.
    """
    width, height = images[0].size
    chunks = [_chunk(b"ANIM", b"\xff" * 4 + b"\0\0")]
    for image, shown in zip(images, milliseconds, strict=True):
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", lossless=True, quality=40, method=2)
        place = b"".join(number.to_bytes(3, "little") for number in (0, 0, width - 1, height - 1, shown))
        chunks.append(_chunk(b"ANMF", place + b"\x02" + buffer.getvalue()[12:]))
    head = _chunk(b"VP8X", b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))
    body = b"WEBP" + head + b"".join(chunks)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _chunk(name: bytes, contents: bytes) -> bytes:
    return name + len(contents).to_bytes(4, "little") + contents + b"\0" * (len(contents) % 2)
