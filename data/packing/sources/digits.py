"""What sets made of packed digits have in common: MNIST's, or any small things on black, with classes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from data.packing.sources.base import Source, existing
from data.packing.sources.tars import TarSource
from data.shards.sample import DamagedSampleError
from launch.command.cli import UserError

_SPLITS = ("train", "held_out")
_DARK, _FULL = 32, 20


class OfDigits(Source):
    """Samples made of the digits of a folder's train.json and held_out.json.

    `count` is the number of samples of train; the other split gets as many for each digit. Null: one of each digit.
    """

    def __init__(self, root: str, count: int | None) -> None:
        super().__init__()
        top = existing(root, "a folder of packed digits")
        self.digits = {
            name: TarSource(str(top / f"{name}.json")) for name in _SPLITS if (top / f"{name}.json").exists()
        }
        first = self.digits.get("train")
        if first is None or not first.classes or first.media != "pictures":
            raise UserError(f"source={root} has no train.json of pictures with classes: name data/samples/mnist")
        share, total = 1.0 if count is None else count / len(first), 0
        self._first: dict[str, int] = {}
        for name, digits in self.digits.items():
            made = max(1, round(len(digits) * share))
            self._first[name], self.splits[name] = total, np.arange(total, total + made)
            total += made
        self.labels = np.full(total, -1, dtype=np.int64)
        self.captioned = total

    @classmethod
    def certain_splits(cls, source: str, splits: object = None) -> list[str]:
        """Those whose digits are there."""
        return [name for name in _SPLITS if (Path(source) / f"{name}.json").exists()]

    def overlaps(self, out: Path) -> bool:
        """See Source."""
        return any(digits.overlaps(out) for digits in self.digits.values())

    def names(self) -> Iterable[str]:
        """The shards of digits."""
        return [f"{shard.url} {shard.sha256}" for one in self.digits.values() for shard in one.index.shards]

    def place(self, number: int) -> tuple[str, int]:
        """The split of a sample, and its number in it."""
        split = next(name for name in reversed(self._first) if number >= self._first[name])
        return split, number - self._first[split]


def thing(picture_HW: np.ndarray, largest: int) -> np.ndarray:
    """What is bright in a picture, cut out and reduced so that its longest side would be `largest` pixels for all.

    Of MNIST, whose digits fit into 20×20 pixels, by `largest` / 20. DamagedSampleError for a black picture.
    """
    rows, columns = (np.flatnonzero((picture_HW > _DARK).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise DamagedSampleError("the picture is black")
    cut = Image.fromarray(picture_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = largest / max(_FULL, *cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    return np.asarray(cut.resize(size, Image.Resampling.BICUBIC))
