"""Small videos for the tests, whose frames tell their numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from data.shards.scanning import build_index
from data.videos.convert import encode
from tests.data.making import write_tar

BITS = 8


def numbered(number: int, height: int = 32, width: int = 64, value: int = 200) -> np.ndarray:
    """frame_HWC, uint8: eight vertical stripes are the bits of its number, the lower half gets brighter by it."""
    frame_HWC = np.full((height, width, 3), 16, np.uint8)
    for bit in range(BITS):
        frame_HWC[: height // 2, bit * width // BITS : (bit + 1) * width // BITS] = value * (number >> bit & 1)
    frame_HWC[height // 2 :] = 20 + 2 * (number % 100)
    return frame_HWC


def number_of(frame_HWC: np.ndarray) -> int:
    """The number of a frame of any size and number of channels."""
    height, width = frame_HWC.shape[:2]
    stripes = [frame_HWC[height // 4, int((bit + 0.5) * width / BITS)].mean() > 100 for bit in range(BITS)]
    return sum(1 << bit for bit, bright in enumerate(stripes) if bright)


def film(
    frames: Sequence[np.ndarray],
    form: str = "mp4",
    codec: str = "libx264",
    rate: int = 25,
    ticks: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    rotated: int = 0,
    movflags: str = "",
    **options: str,
) -> bytes:
    """Frames as a video; `ticks` are times in milliseconds, in which none is that of a constant rate."""
    buffer = io.BytesIO()
    muxer = {"movflags": movflags} if movflags else {}
    with av.open(buffer, "w", format={"mkv": "matroska"}.get(form, form), options=muxer) as container:
        stream: Any = container.add_stream(codec, rate=rate, options={"threads": "1", **options})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotated:
            stream.set_display_rotation(rotated)
        for number, frame_HWC in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = Fraction(1, rate if ticks is None else 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def clip(first: int, count: int, **sizes: int) -> bytes:
    """An animated WebP of numbered frames."""
    return encode([numbered(first + i, **sizes) for i in range(count)], [0.04] * count, "webp")


def video_set(folder: Path, lengths: Sequence[int], shards: int = 2, damaged: tuple[int, ...] = ()) -> Path:
    """Shards of animations `k000`, …, with labels and captions, each from frame 20·i on; the path of their index."""
    samples = []
    for i, length in enumerate(lengths):
        contents = clip(20 * (i % 10), length)
        contents = contents[:40] if i in damaged else contents
        samples.append((f"k{i:03d}", {"webp": contents, "cls": str(i % 2).encode(), "txt": f"text {i}".encode()}))
    tars = [write_tar(folder / f"v-{j}.tar", samples[j::shards]) for j in range(shards)]
    build_index(tars, base=folder, kind="videos", classes=["a", "b"]).save(folder / "v.json")
    return folder / "v.json"
