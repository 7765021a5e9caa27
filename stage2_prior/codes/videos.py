"""Videos in stage two: written as animated WebP without loss, with a strip of frames beside it.

Shapes: B samples, C channels, T frames, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.pictures.transforms import to_float, to_uint8
from data.shards import signature
from data.videos.clips import clip_of
from data.videos.config import VideoConfig
from data.videos.shown import film, frames_of
from launch.files.atomic import write_file
from stage1_tokenizer import Tokenizer
from stage1_tokenizer.measuring.videos_shown import strip
from stage2_prior.codes.kinds import SampleKind

GAP = 2
"""Pixels between the clips of a moving grid."""


@dataclass(frozen=True)
class Video:
    """A clip to be written."""

    x_CTHW: np.ndarray
    """uint8."""
    rate: float | None
    """Frames a second."""

    def save(self, path: Path) -> None:
        """Write a strip of frames, NAME.png, and then NAME.webp."""
        self.picture().save(path.with_suffix(".png"))
        write_file(path, film(self.x_CTHW, self.rate))

    def save_film(self, path: Path) -> None:
        """Write an .mp4."""
        write_file(path, film(self.x_CTHW, self.rate, "mp4"))

    def picture(self) -> Image.Image:
        """Some of its frames in a row."""
        return Image.fromarray(strip(self.x_CTHW))


def load(file: Path, transform: Any) -> Video:
    """The clip in a file that `Video.save` wrote."""
    assert isinstance(transform, VideoConfig)
    return Video(frames_of(file.read_bytes(), transform.channels), transform.frame_rate)


def moving_grid(rows: Sequence[Sequence[Video]]) -> bytes:
    """Clips in rows and columns, all moving in step, as an animated WebP; shorter ones hold their last frame."""
    channels, _, height, width = rows[0][0].x_CTHW.shape
    frames = max(video.x_CTHW.shape[1] for row in rows for video in row)
    size = (len(rows) * (height + GAP) - GAP, max(map(len, rows)) * (width + GAP) - GAP)
    page_CTHW = np.full((channels, frames, *size), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, video in enumerate(row):
            top, left, own = y * (height + GAP), x * (width + GAP), video.x_CTHW.shape[1]
            at = page_CTHW[:, :, top : top + height, left : left + width]
            at[:, :own], at[:, own:] = video.x_CTHW, video.x_CTHW[:, -1:]
    return film(page_CTHW, rows[0][0].rate)


def decoded(tokenizer: Tokenizer, x_BCTHW: Tensor) -> list[Video]:
    """Clips of floats in [-1, 1], at the rate of the tokenizer's transform."""
    transform: Any = tokenizer.transform
    assert isinstance(transform, VideoConfig)
    return [Video(x_CTHW, transform.frame_rate) for x_CTHW in to_uint8(x_BCTHW).cpu().numpy()]


def input_of(batch: Any, device: torch.device) -> Tensor:
    """x_BCTHW from bytes."""
    return to_float(batch.pixels_BCTHW.to(device))


def read(contents: bytes, transform: Any) -> tuple[Tensor, tuple[int, ...]]:
    """The clip of a video file as in evaluation, x_BCTHW; the size of the file's frames isn't told."""
    return to_float(torch.from_numpy(clip_of(contents, transform)))[None], ()


VIDEOS = SampleKind(
    name="videos",
    suffix=".webp",
    input=input_of,
    decoded=decoded,
    picture=Video.picture,
    extensions=signature.VIDEOS,
    read=read,
    empty=0.0,
    load=load,
    moving_grid=moving_grid,
)
