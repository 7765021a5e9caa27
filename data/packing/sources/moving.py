"""Clips made of pictures: MNIST's digits (or any small things on black) that move over a black frame."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from data.packing.sources.base import Raw, Source, existing
from data.packing.sources.tars import TarSource
from data.pictures.config import FrameConfig
from data.pictures.decode import decode_picture
from data.shards.draws import draws
from data.shards.sample import DamagedSampleError
from data.videos.convert import encode
from launch.command.cli import UserError

FRAMES, SIDE, DIGIT = 17, 24, 16
"""Frames of a clip, their side, and the longest side of the thing in them, in pixels: it moves by half of one each
frame."""
SECONDS = 0.125
"""That a frame is shown."""
DIRECTIONS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}
"""Rows and columns by which each moves."""
_SPLITS = ("train", "held_out")
_DARK = 32


class MovingDigitsSource(Source):
    """Of each digit of a set of pictures a clip, in which it moves from one side of the frame to the other.

    The class is the picture's, the caption says class and direction: `a 3 moves right`. `clips` is the number of clips
    of train, digits being taken several times where there are fewer; the other split gets as many for each digit.
    """

    media = "videos"
    about = "clips of moving digits, made of the shards of MNIST (data/samples/mnist)"
    options = ("clips",)

    def __init__(self, root: str, clips: int | None = None) -> None:
        super().__init__()
        top = existing(root, "a folder of packed digits")
        self._digits = {
            name: TarSource(str(top / f"{name}.json")) for name in _SPLITS if (top / f"{name}.json").exists()
        }
        first = next(iter(self._digits.values()), None)
        if first is None or not first.classes or first.media != "pictures":
            raise UserError(f"source={root} has no train.json of pictures with classes: name data/samples/mnist")
        self.classes = list(first.classes)
        self._first: dict[str, int] = {}
        share = 1.0 if clips is None else clips / len(first)
        total = 0
        for name, digits in self._digits.items():
            count = max(1, round(len(digits) * share))
            self._first[name], self.splits[name] = total, np.arange(total, total + count)
            total += count
        self.labels = np.full(total, -1, dtype=np.int64)
        self.captioned = total
        self.meta = {
            "frame_rate": 1 / SECONDS,
            "attributes": {
                "digit": {"words": self.classes, "seen": "frames"},
                "direction": {"words": list(DIRECTIONS), "seen": "motion"},
            },
        }

    @classmethod
    def certain_splits(cls, source: str, splits: object = None) -> list[str]:
        """Those whose digits are there."""
        return [name for name in _SPLITS if (Path(source) / f"{name}.json").exists()]

    def overlaps(self, out: Path) -> bool:
        """See Source."""
        return any(digits.overlaps(out) for digits in self._digits.values())

    def names(self) -> Iterable[str]:
        """The shards of digits."""
        return [f"{shard.url} {shard.sha256}" for one in self._digits.values() for shard in one.index.shards]

    def read(self, number: int) -> Raw:
        """A clip, a function of the picture and of how often it was taken before."""
        split = next(name for name in reversed(self._first) if number >= self._first[name])
        digits = self._digits[split]
        turn, at = divmod(number - self._first[split], len(digits))
        digit = digits.read(at)
        if digit.label < 0 or digit.encoded is None:
            raise DamagedSampleError("the picture has no class")
        numbers = draws(turn, 0, digit.key)
        direction = list(DIRECTIONS)[int(len(DIRECTIONS) * next(numbers))]
        thing_HW = thing(decode_picture(digit.encoded, FrameConfig(channels=1), max_pixels=1_000_000)[:, :, 0])
        clip_THW = moved(thing_HW, DIRECTIONS[direction], next(numbers))
        caption = f"a {self.classes[digit.label]} moves {direction}"
        return Raw(
            f"{digit.key}-{turn}-{direction}",
            encode(clip_THW, [SECONDS] * FRAMES, "webp"),
            label=digit.label,
            members={"txt": caption.encode()},
        )


def thing(picture_HW: np.ndarray) -> np.ndarray:
    """What is bright in a picture, cut out and reduced so that its longest side would be DIGIT pixels for all.

    Of MNIST, whose digits fit into 20×20 pixels, by DIGIT / 20.
    """
    rows, columns = (np.flatnonzero((picture_HW > _DARK).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise DamagedSampleError("the picture is black")
    cut = Image.fromarray(picture_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = DIGIT / max(20, *cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    return np.asarray(cut.resize(size, Image.Resampling.BICUBIC))


def moved(thing_HW: np.ndarray, step: tuple[int, int], across: float) -> np.ndarray:
    """clip_THW, uint8: a thing in the middle of a cell of DIGIT pixels that moves by `step` times half a pixel a frame.

    The cell goes from one edge to the other; `across` in [0, 1) says where it is on the other axis. Between pixels it
    is interpolated linearly.
    """
    clip_THW = np.zeros((FRAMES, SIDE + 1, SIDE + 1), np.float32)
    room, (height, width) = SIDE - DIGIT, thing_HW.shape
    for t, frame_HW in enumerate(clip_THW):
        far = room * t / (FRAMES - 1)
        along = {1: far, -1: room - far, 0: int((room + 1) * across)}
        at = along[step[0]] + (DIGIT - height) // 2, along[step[1]] + (DIGIT - width) // 2
        (top, down), (left, right) = (divmod(one, 1) for one in at)
        for row, rows in enumerate((1 - down, down)):
            for column, columns in enumerate((1 - right, right)):
                y, x = int(top) + row, int(left) + column
                frame_HW[y : y + height, x : x + width] += rows * columns * thing_HW
    return np.rint(clip_THW[:, :SIDE, :SIDE]).astype(np.uint8)
