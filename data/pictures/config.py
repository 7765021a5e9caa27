"""How a picture becomes pixels of one size: settings that travel with releases and code shards. No torch here."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True, kw_only=True)
class FrameConfig:
    """What pictures and the frames of videos have in common: size×size pixels with `channels` channels."""

    kind: str = ""
    """Kind of the samples, which decides what other settings there are."""
    size: int = 256
    """Pixels of each side of the result."""
    channels: int = 3
    """3 for RGB, 1 for grey."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """crop: the largest square of the picture; pad: all of it, reduced if it is too large, never enlarged, with
    `background` around it; stretch: all of it, made square."""
    flip: bool = False
    """In training, mirror left to right at random."""
    random_crop: bool = False
    """In training, with fit=crop, place the square at random instead of in the middle."""
    min_scale: float = 1.0
    """In training, with random_crop, the smallest side of the square, as a share of the largest possible one."""
    resize: Literal["bicubic", "area"] = "bicubic"
    """bicubic: antialiased, like PIL's; area: the mean over each target pixel's area (triangle weights), faster: JPEGs
    are decoded at a half, a quarter or an eighth of their size where the target is that much smaller."""
    background: int = 255
    """Grey value, 0 to 255, behind transparent pixels and around a padded picture."""

    def __post_init__(self) -> None:
        at_least(1, self, "size", prefix="transform.")
        check("transform.channels", self.channels, self.channels in (1, 3), "1 (grey) or 3 (RGB)")
        check("transform.min_scale", self.min_scale, 0 < self.min_scale <= 1, "at most 1 (the largest square), above 0")
        if self.min_scale < 1 and not self.random_crop:
            raise ValueError("transform.min_scale below 1 needs transform.random_crop=true: set it, or min_scale to 1")
        if self.random_crop and self.fit != "crop":
            raise ValueError(f"transform.random_crop=true needs transform.fit=crop, not {self.fit}: change one of them")
        check("transform.background", self.background, 0 <= self.background <= 255, "0..255, such as 255 for white")


@dataclass(frozen=True, kw_only=True)
class TransformConfig(FrameConfig):
    """How a picture of any size and mode becomes size×size pixels with `channels` channels."""

    kind: Literal["pictures"] = "pictures"
    """Kind of the samples, which decides what other settings there are."""

    def __post_init__(self) -> None:
        if self.kind != "pictures":
            raise ValueError(f"transform.kind={self.kind} has other settings than pictures: set kind to pictures")
        super().__post_init__()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of a prepared picture's axes, without channels."""
        return (self.size, self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: releases and code indexes carry them. The default `kind` is left out."""
        return {name: value for name, value in asdict(self).items() if name != "kind"}
