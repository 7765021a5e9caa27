"""Clips made of pictures: MNIST's digits (or any small things on black) that move over a black frame."""

import numpy as np

from data.packing.sources.base import Raw
from data.packing.sources.digits import OfDigits, thing
from data.pictures.config import FrameConfig
from data.pictures.decode import decode_picture
from data.shards.draws import draws
from data.shards.sample import DamagedSampleError
from data.videos.convert import encode

FRAMES, SIDE, CELL = 9, 24, 16
"""Frames of a clip, and in pixels the sides of a frame and of the digit's cell, which moves by one each frame."""
SECONDS = 0.125
"""That a frame is shown."""
DIRECTIONS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}
"""Rows and columns by which each moves."""


class MovingDigitsSource(OfDigits):
    """Of each digit of a set of pictures a clip, in which it moves from one side of the frame to the other.

    The class is the picture's, the caption says class and direction: `a 3 moves right`. `clips` is the number of clips
    of train, digits being taken several times where there are fewer; the other split gets as many for each digit.
    """

    media = "videos"
    about = "clips of moving digits, made of the shards of MNIST (data/samples/mnist)"
    options = ("clips",)

    def __init__(self, root: str, clips: int | None = None) -> None:
        super().__init__(root, clips)
        self.classes = list(self.digits["train"].classes)
        self.meta = {
            "frame_rate": 1 / SECONDS,
            "attributes": {
                "digit": {"words": self.classes, "seen": "frames"},
                "direction": {"words": list(DIRECTIONS), "seen": "motion"},
            },
        }

    def read(self, number: int) -> Raw:
        """A clip, a function of the picture and of how often it was taken before."""
        split, at = self.place(number)
        digits = self.digits[split]
        turn, at = divmod(at, len(digits))
        digit = digits.read(at)
        if digit.label < 0 or digit.encoded is None:
            raise DamagedSampleError("the picture has no class")
        numbers = draws(turn, 0, digit.key)
        direction = list(DIRECTIONS)[int(len(DIRECTIONS) * next(numbers))]
        thing_HW = thing(decode_picture(digit.encoded, FrameConfig(channels=1), max_pixels=1_000_000)[:, :, 0], CELL)
        clip_THW = moved(thing_HW, DIRECTIONS[direction], next(numbers))
        caption = f"a {self.classes[digit.label]} moves {direction}"
        return Raw(
            f"{digit.key}-{turn}-{direction}",
            encode(clip_THW, [SECONDS] * FRAMES, "webp"),
            label=digit.label,
            members={"txt": caption.encode()},
        )


def moved(thing_HW: np.ndarray, step: tuple[int, int], across: float) -> np.ndarray:
    """clip_THW, uint8: a thing in the middle of a cell of CELL×CELL pixels that moves by `step` in each frame.

    The cell goes from one edge to the other; `across` in [0, 1) says where it is on the other axis.
    """
    clip_THW = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    room, (height, width) = SIDE - CELL, thing_HW.shape
    for t, frame_HW in enumerate(clip_THW):
        along = {1: t, -1: room - t, 0: int((room + 1) * across)}
        top, left = along[step[0]] + (CELL - height) // 2, along[step[1]] + (CELL - width) // 2
        frame_HW[top : top + height, left : left + width] = thing_HW
    return clip_THW
