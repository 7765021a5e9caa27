"""Variants of a picture that are encoded as separate samples: crops and mirror images.

Shapes: B batch, C channels, H W pixels.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from data.pictures.config import TransformConfig

PLACES = {"upper-left": (0, 0), "upper-right": (0, 2), "lower-left": (2, 0), "lower-right": (2, 2), "middle": (1, 1)}
"""Position of a crop: halves of the margin above and to the left."""


@dataclass(frozen=True)
class Variant:
    """One variant of a picture."""

    name: str
    """The suffix of its samples' keys; "plain", the picture itself, has none."""
    place: tuple[int, int] | None
    """Position of the crop, in halves of the margin above and to the left; None for the whole picture."""
    flipped: bool

    @property
    def suffix(self) -> str:
        """What is appended to its samples' keys."""
        return "" if self.name == "plain" else f"-{self.name}"

    def of(self, x_BCHW: Tensor, size: int) -> Tensor:
        """The variant of some pictures, size×size pixels."""
        if self.place is not None:
            upper, left = (half * (x_BCHW.shape[-1] - size) // 2 for half in self.place)
            x_BCHW = x_BCHW[..., upper : upper + size, left : left + size]
        return x_BCHW.flip(-1) if self.flipped else x_BCHW


def variants(crops: int, flip: bool) -> list[Variant]:
    """The variants of each picture: itself or 5 crops, and with `flip` their mirror images."""
    chosen = []
    places: dict[str, tuple[int, int] | None] = {"plain": None} if crops == 1 else dict(PLACES)
    for name, place in places.items():
        chosen.append(Variant(name, place, False))
        if flip:
            chosen.append(Variant("flip" if name == "plain" else f"{name}-flip", place, True))
    return chosen


def reading(transform: TransformConfig, crops: int, crop_range: float) -> TransformConfig:
    """How pictures are read for these variants: `crop_range` times larger if they are cropped."""
    return transform if crops == 1 else replace(transform, size=int(transform.size * crop_range))
