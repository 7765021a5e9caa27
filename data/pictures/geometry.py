"""Which part of a picture is kept, at what size, and the random numbers of the augmentation. No torch here."""

import hashlib
from dataclasses import dataclass

from data.pictures.config import FrameConfig


@dataclass(frozen=True)
class Draw:
    """The random numbers of one sample in one epoch, each uniform in [0, 1)."""

    flip: float
    x: float
    y: float
    scale: float


def draw(seed: int, epoch: int, key: str) -> Draw:
    """The augmentation of sample `key` in `epoch`: a function of the three alone, on every rank and thread."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=32).digest()
    parts = (int.from_bytes(digest[i : i + 8], "little") / 2**64 for i in range(0, 32, 8))
    return Draw(*parts)


def crop_box(width: int, height: int, config: FrameConfig, random: Draw | None) -> tuple[int, int, int, int]:
    """Left, upper, right, lower edge of the part of a width×height picture that is resized to the target."""
    if config.fit != "crop":
        return 0, 0, width, height
    side = min(width, height)
    if random is None or not config.random_crop:
        left, upper = (width - side) // 2, (height - side) // 2
    else:
        side = max(1, round(side * (config.min_scale + (1 - config.min_scale) * random.scale)))
        left, upper = int((width - side + 1) * random.x), int((height - side + 1) * random.y)
    return left, upper, left + side, upper + side


def target_size(width: int, height: int, config: FrameConfig) -> tuple[int, int]:
    """Width and height that a width×height picture has in the result, before padding."""
    if config.fit != "pad":
        return config.size, config.size
    scale = min(1.0, config.size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
