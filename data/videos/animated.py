"""Animated WebP and GIF, which PIL reads, and WebP in which every frame stays.

Shapes: N frames of a file, H W pixels, C channels.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

from data.pictures.config import FrameConfig
from data.pictures.decode import check_pixels, opened, pixels_of
from data.shards.sample import DamagedSampleError
from data.videos.video import VideoFile
from launch.command.cli import reason

_SHOWN = 0.1
"""Seconds that a frame of an animation is shown that doesn't say how long, as browsers do it."""


def every_frame(images: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """An endless animation that has all the pictures as frames of their own, shown for so many milliseconds.

    Other than PIL's, which make equal neighbours one frame. Each frame is coded by itself.
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


class Animation(VideoFile):
    """An animated WebP or GIF; a still picture of these formats has one frame."""

    def __init__(self, data: bytes | memoryview, extension: str, max_pixels: int):
        self._data, self._extension, self._max_pixels = data, extension, max_pixels
        with _told("can't be opened"):
            self._image = opened(data)
            check_pixels(*self._image.size, max_pixels)
            self._frames = int(getattr(self._image, "n_frames", 1))

    @property
    def frames(self) -> int:
        """See VideoFile."""
        return self._frames

    @property
    def times(self) -> np.ndarray:
        """See VideoFile."""
        seconds = webp_seconds(self._data) if self._extension == "webp" else self._gif_seconds()
        return np.concatenate([[0.0], np.cumsum([one or _SHOWN for one in seconds or [0.0]])])

    def _gif_seconds(self) -> list[float]:
        found = []
        for number in range(self.frames):
            self._seek(number)
            found.append(self._image.info.get("duration", 0) / 1000)
        return found

    def _seek(self, number: int) -> None:
        with _told(f"frame {number} can't be decoded"):
            self._image.seek(number)
            check_pixels(*self._image.size, self._max_pixels)  # a GIF's frames may be larger than itself

    def read(self, numbers: Sequence[int], config: FrameConfig) -> Iterator[np.ndarray]:
        """See VideoFile."""
        for number in numbers:
            self._seek(number)
            with _told(f"frame {number} can't be decoded"):
                pixels_HWC = pixels_of(self._image, config)
            yield pixels_HWC

    def close(self) -> None:
        """See VideoFile."""
        self._image.close()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns what PIL raises on damaged input, which is all kinds of exceptions, into a DamagedSampleError."""
    try:
        yield
    except DamagedSampleError:
        raise
    except Exception as error:
        raise DamagedSampleError(f"{what}: {reason(error)}"[:200]) from error


def webp_seconds(data: bytes | memoryview) -> list[float]:
    """How long each frame of a WebP is shown, from its ANMF chunks; nothing of a still one. Decodes nothing."""
    seconds, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if bytes(data[at : at + 4]) == b"ANMF":
            seconds.append(int.from_bytes(data[at + 20 : at + 23], "little") / 1000)
        at += 8 + size + size % 2
    return seconds
