"""Settings of stage2_prior.encode."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Turn shards of pictures into shards of a tokenizer's codes."""

    tokenizer: str
    """A released tokenizer's folder."""
    data: str
    """Index of the pictures."""
    out: str
    """Folder for the code shards and index.json; an interrupted encoding there is continued."""
    flip: bool = False
    """Also encode every picture (or crop) mirrored, as a sample of its own (its key ends in -flip)."""
    crops: int = 1
    """1: the picture as it is; 5: its four corners and its middle, samples of their own. 5 with flip is ten-crop."""
    crop_range: float = 1.1
    """With crops=5: how much larger than a crop the picture is read."""
    verify: int = 0
    """Compare so many pictures' codes with a fresh encoding at the end, and show them decoded in OUT/verify.png."""
    batch_size: int | None = None
    """Pictures encoded at once on each rank; null: what fits on the GPU, found by trying, and 64 on CPUs."""
    threads: int = 2
    """Reading and decoding threads of each rank."""
    overwrite: bool = False
    """Replace a finished set of codes in `out`."""
    part: int = 0
    """Which of `parts` this is, from 0."""
    parts: int = 1
    """Share the shards out to so many jobs; each writes a folder of its own in `out`, and stage2_prior.codes.shares
    joins."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} is too small: set it to 1 or more")
        if self.crops not in (1, 5):
            raise ValueError(f"crops={self.crops} is neither 1 nor 5: set 1 for the picture, 5 for corners and middle")
        if self.crop_range < 1 or self.verify < 0:
            raise ValueError(f"crop_range={self.crop_range} must be 1 or more, verify={self.verify} 0 or more")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part={self.part} is none of parts={self.parts}: count from 0 to {self.parts - 1}")
