"""Variants of a picture that are encoded as separate samples: crops and mirror images.

Shapes: B batch, C channels, H W pixels.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from data.media import Transform
from data.pictures.config import TransformConfig
from launch.command.cli import UserError

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

    def of(self, x_BCHW: Tensor, transform: Transform) -> Tensor:
        """The variant of some pictures, of the size of `transform`; of other samples, themselves."""
        if self.place is not None:
            size = transform.sizes[-1]
            upper, left = (half * (x_BCHW.shape[-1] - size) // 2 for half in self.place)
            x_BCHW = x_BCHW[..., upper : upper + size, left : left + size]
        return x_BCHW.flip(-1) if self.flipped else x_BCHW


def variants(crops: int, flip: bool) -> list[Variant]:
    """The variants of each picture: itself or 5 crops, and with `flip` (or 10 crops) their mirror images."""
    chosen, flip = [], flip or crops == 10
    places: dict[str, tuple[int, int] | None] = {"plain": None} if crops == 1 else dict(PLACES)
    for name, place in places.items():
        chosen.append(Variant(name, place, False))
        if flip:
            chosen.append(Variant("flip" if name == "plain" else f"{name}-flip", place, True))
    return chosen


def reading(transform: Transform, crops: int, crop_range: float) -> Transform:
    """How samples are read for these variants: pictures `crop_range` times larger if they are cropped."""
    if crops == 1:
        return transform
    assert isinstance(transform, TransformConfig)
    return replace(transform, size=int(transform.size * crop_range))


def check_variants(transform: Transform, crops: int, flip: bool) -> None:
    """UserError for variants that samples of `transform` haven't."""
    if not isinstance(transform, TransformConfig):
        for name, given in (("crops", crops > 1), ("flip", flip)):
            if given:
                raise UserError(f"{name} is for pictures, but the tokenizer is of {transform.kind}: leave it out")
    elif crops > 1 and transform.fit != "crop":
        raise UserError(f"crops={crops} needs a tokenizer whose transform has fit=crop, not {transform.fit}")
