"""What of a picture is encoded besides itself: crops and mirror images, as samples of their own.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from data.pictures.config import TransformConfig

PLACES = {"upper-left": (0, 0), "upper-right": (0, 2), "lower-left": (2, 0), "lower-right": (2, 2), "middle": (1, 1)}
"""Where a crop lies: halves of the room above and left of it."""


@dataclass(frozen=True)
class Variant:
    """One way to look at a picture."""

    name: str
    """What its samples' keys end in; "plain" for the picture as it is, whose key has no ending."""
    place: tuple[int, int] | None
    """Where the crop lies, in halves of the room above and left of it; None for the whole picture."""
    flipped: bool

    @property
    def suffix(self) -> str:
        """The ending of its samples' keys."""
        return "" if self.name == "plain" else f"-{self.name}"

    def of(self, x_BCHW: Tensor, size: int) -> Tensor:
        """Its part of the pictures, size×size pixels."""
        if self.place is not None:
            upper, left = (half * (x_BCHW.shape[-1] - size) // 2 for half in self.place)
            x_BCHW = x_BCHW[..., upper : upper + size, left : left + size]
        return x_BCHW.flip(-1) if self.flipped else x_BCHW


def variants(crops: int, flip: bool) -> list[Variant]:
    """The variants of each picture: itself or 5 crops, and their mirror images if `flip`."""
    found = []
    places: dict[str, tuple[int, int] | None] = {"plain": None} if crops == 1 else dict(PLACES)
    for name, place in places.items():
        found.append(Variant(name, place, False))
        if flip:
            found.append(Variant("flip" if name == "plain" else f"{name}-flip", place, True))
    return found


def reading(transform: TransformConfig, crops: int, crop_range: float) -> TransformConfig:
    """How pictures are read for these variants: so much larger, where they are cropped."""
    return transform if crops == 1 else replace(transform, size=int(transform.size * crop_range))
