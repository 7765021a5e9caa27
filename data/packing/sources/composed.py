"""Pictures of two digits with a sentence that says which is where, made of MNIST (or other small things on black)."""

import hashlib
import io
from functools import cache
from itertools import combinations, product

import numpy as np
from PIL import Image

from data.packing.sources.base import Raw
from data.packing.sources.digits import OfDigits, thing
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError

SIDE, CELL = 24, 12
"""Sides of a picture and of the corner that a digit stands in, in pixels."""
PLACES = {"top left": (0, 0), "top right": (0, CELL), "bottom left": (CELL, 0), "bottom right": (CELL, CELL)}
"""First row and column of each corner."""
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTHING = "nothing"
HELD_OUT, SEED = 0.2, 2026
"""Share of the sentences that train doesn't have, and the seed that chooses them."""


class CaptionedDigitsSource(OfDigits):
    """Pictures of two digits in two of the four corners, and a sentence that says of each corner what is there.

    Of the 600 sentences the split `held_out` has a fifth, which `train` hasn't; its digits are those held out of the
    source. `count` is the number of pictures of train; the other split gets as many for each digit of the source.
    """

    about = "pictures of two digits with sentences, made of the shards of MNIST (data/samples/mnist)"
    options = ("count",)

    def __init__(self, root: str, count: int | None = None) -> None:
        super().__init__(root, count)
        if len(self.digits["train"].classes) != len(WORDS):
            raise UserError(f"source={root} has no train.json of digits in ten classes: name data/samples/mnist")
        self._of_class: dict[str, list[np.ndarray]] = {}
        for name, digits in self.digits.items():
            labels = np.array([digits.read(number).label for number in range(len(digits))])
            self._of_class[name] = [np.flatnonzero(labels == digit) for digit in range(len(WORDS))]
            if not all(map(len, self._of_class[name])):
                raise UserError(f"source={root}: {name}.json lacks some of the ten digits: name data/samples/mnist")
        self.meta = {"composed": {"words": list(WORDS), "nothing": NOTHING, "places": PLACES, "cell": CELL}}

    def read(self, number: int) -> Raw:
        """A picture; all sentences of its split come equally often, with other digits of the source each time."""
        split, at = self.place(number)
        sentences = sentences_of(split)
        turn, which = divmod(at, len(sentences))
        chosen = sentences[which]
        picture_HW = np.zeros((SIDE, SIDE), dtype=np.uint8)
        for part, (digit, place) in enumerate(chosen):
            pool = self._of_class[split][digit]
            # Each sentence goes through the digits of a class in an order of its own.
            order = mixed(len(pool), f"{which}/{part}")
            sample = self.digits[split].read(int(pool[order[turn % len(pool)]]))
            if sample.encoded is None:
                raise DamagedSampleError("the digit has no picture")
            with Image.open(io.BytesIO(sample.encoded)) as image:
                paste(picture_HW, np.asarray(image.convert("L")), PLACES[place])
        return Raw(f"{which:03d}_{turn:03d}", array=picture_HW, members={"txt": sentence(chosen).encode()})


Sentence = tuple[tuple[int, str], ...]
"""Digit and place, in the order in which they are named."""


@cache
def sentences_of(split: str) -> list[Sentence]:
    """The sentences of a split: of two digits in two corners each, in an order that mixes them."""
    pairs = combinations(PLACES, 2)
    every = [((one, first), (other, last)) for (first, last), one, other in product(pairs, range(10), range(10))]
    order = mixed(len(every), "sentences")
    held_out = round(HELD_OUT * len(every))
    return [every[i] for i in (order[:held_out] if split == "held_out" else order[held_out:])]


@cache
def mixed(count: int, name: str) -> list[int]:
    """A permutation of range(count): by a hash of seed, name and number, the same on every machine."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{SEED}/{name}/{i}".encode()).digest())


def sentence(chosen: Sentence) -> str:
    """The sentence in words: `three at the top left, nothing at the top right, …`.

    Each corner has its place in all sentences, so that a small model needn't learn first which digit goes where.
    """
    word_of = {place: WORDS[digit] for digit, place in chosen}
    return ", ".join(f"{word_of.get(place, NOTHING)} at the {place}" for place in PLACES)


def paste(picture_HW: np.ndarray, digit_HW: np.ndarray, place: tuple[int, int]) -> None:
    """Put what is bright in a picture into the middle of a corner."""
    small_HW = thing(digit_HW, CELL)
    height, width = small_HW.shape
    row, column = place[0] + (CELL - height) // 2, place[1] + (CELL - width) // 2
    picture_HW[row : row + height, column : column + width] = small_HW
