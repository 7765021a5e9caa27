"""Checks that a video decodes and has the right extension; draws four of its frames for a contact sheet."""

import numpy as np
from PIL import Image

from data.pictures.transforms import apply
from data.shards.sample import Sample
from data.videos.choice import whole
from data.videos.colours import to_sdr
from data.videos.config import VideoConfig
from data.videos.convert import check_all
from data.videos.files import extension_of, open_video, video_member

_ALIKE = {"m4v": "mp4", "mov": "mp4", "webm": "mkv"}
"""What other extensions of videos mean: these have one structure, and their files are often called by each other's."""
_MAX_PIXELS = 100_000_000


def check(sample: Sample, max_pixels: int) -> tuple[bytes, str]:
    """The video's bytes, and a note where its extension names another format. DamagedSampleError if damaged."""
    name = video_member(sample)
    contents = bytes(sample.files[name])
    with open_video(contents, max_pixels) as file:
        check_all(file)
    called, real = name.rpartition(".")[2], extension_of(contents)
    alike = _ALIKE.get(called, called) == _ALIKE.get(real, real)
    return contents, "" if alike else f"called .{called}, is {real}"


def thumbnail(sample: Sample, side: int) -> Image.Image:
    """Four frames in two rows, side×side pixels: the first, two in between and the last, the middle square of each."""
    half = max(1, side // 2)
    plain = VideoConfig(size=half, resize="area")
    sheet_HWC = np.zeros((2 * half, 2 * half, 3), np.uint8)
    with open_video(sample.files[video_member(sample)], _MAX_PIXELS) as file:
        numbers = whole(file, 4)
        for i, pixels_HWC in enumerate(file.read(numbers, plain)):
            row, column = divmod(i, 2)
            place_HWC = sheet_HWC[row * half : (row + 1) * half, column * half : (column + 1) * half]
            apply(pixels_HWC, plain, None, place_HWC)
            if file.hdr:
                to_sdr(place_HWC, file.hdr)
    return Image.fromarray(sheet_HWC)
