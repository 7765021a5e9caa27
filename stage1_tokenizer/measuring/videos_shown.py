"""Originals beside their reconstructions, as moving pictures and as strips of frames.

Legend: B batch, C channels, T frames, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.pictures.transforms import to_float, to_uint8
from data.reading.stream import every_sample
from data.shards.index import ShardIndex
from data.videos.config import VideoConfig
from data.videos.shown import film
from launch.files.atomic import write_file, writing
from launch.files.outputs import output
from stage1_tokenizer.tokenizer.model import Tokenizer

STRIP = 8
"""Frames of a strip, evenly spaced from the first to the last."""
GAP = 2


def save_videos(folder: Path | None, picture: Path, tokenizer: Tokenizer, source: ShardIndex | str, count: int) -> None:
    """Write `count` clips of an index, evenly spaced, beside their reconstructions.

    Into `folder`, if there is one, NN.webp, the original on the left moving in step with the reconstruction on the
    right; to `picture`, a PNG, strips of their frames, each original above its reconstruction.
    """
    transform = tokenizer.transform
    assert isinstance(transform, VideoConfig), "trained and released tokenizers have a transform"
    device = next(tokenizer.parameters()).device
    if folder is not None:
        with output(folder):
            folder.mkdir(parents=True, exist_ok=True)
    strips: list[np.ndarray] = []
    for batch in every_sample(source, transform, batch_size=min(count, 8), limit=count):
        y_BCTHW = to_uint8(tokenizer.reconstruct(to_float(batch.pixels_BCTHW.to(device)))[0]).cpu()
        for x_CTHW, y_CTHW in zip(batch.pixels_BCTHW.numpy(), y_BCTHW.numpy(), strict=True):
            if folder is not None:
                write_file(folder / f"{len(strips) // 2:02d}.webp", film(pair(x_CTHW, y_CTHW), transform.frame_rate))
            strips += [strip(x_CTHW), strip(y_CTHW)]
    with writing(picture) as file:
        Image.fromarray(sheet(strips)).save(file, format="PNG")


def pair(x_CTHW: np.ndarray, y_CTHW: np.ndarray) -> np.ndarray:
    """One clip on the left and another, of the same size, on the right."""
    gap_CTHW = np.full((*x_CTHW.shape[:3], GAP), 255, np.uint8)
    return np.concatenate([x_CTHW, gap_CTHW, y_CTHW], axis=3)


def strip(x_CTHW: np.ndarray) -> np.ndarray:
    """Some frames of a uint8 clip in a row, an RGB picture (H, W, 3)."""
    frames = x_CTHW.shape[1]
    chosen = np.linspace(0, frames - 1, min(STRIP, frames)).round().astype(int)
    frames_THWC = np.broadcast_to(x_CTHW[:, chosen], (3, len(chosen), *x_CTHW.shape[2:])).transpose(1, 2, 3, 0)
    space_HWC = np.full((x_CTHW.shape[2], GAP, 3), 255, np.uint8)
    return np.concatenate([part for frame_HWC in frames_THWC for part in (frame_HWC, space_HWC)][:-1], axis=1)


def sheet(strips: Sequence[np.ndarray], together: int = 2) -> np.ndarray:
    """Strips of one size below each other; a wider gap after so many."""
    width = strips[0].shape[1]
    parts: list[np.ndarray] = []
    for number, one in enumerate(strips, start=1):
        parts += [one, np.full((4 * GAP if number % together == 0 else GAP, width, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=0)
