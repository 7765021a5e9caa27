"""Settings of stage2_prior.encode."""

from dataclasses import dataclass
from typing import Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Turn shards of pictures into shards of a tokenizer's codes."""

    tokenizer: str
    """A released tokenizer's folder."""
    data: str
    """Index of the pictures."""
    out: str
    """Folder for the code shards and index.json; rerun the command to continue an interrupted encoding."""
    flip: bool = False
    """Also encode every picture (or crop) mirrored, as another sample (its key ends in -flip)."""
    crops: int = 1
    """1: the picture; 5: its four corners and its centre, as samples; 10: these and mirror images of them, ten-crop."""
    crop_range: float = 1.1
    """With crops=5 or 10: size of the picture relative to a crop."""
    verify: int = 0
    """Number of pictures to encode again and compare at the end; OUT/verify.png shows them decoded."""
    batch_size: int | None = None
    """Pictures that each rank encodes at once; null: as many as fit on the GPU, found by trying; on CPUs 4 of 256
    pixels, up to 64 of smaller ones."""
    threads: int | None = None
    """Reading and decoding threads of each rank; null: its share of the cores, at most 8."""
    allow_left_out: float = 0.1
    """Share of the pictures that may have no codes because they can't be decoded. Those of the index's quarantine list
    are left out anyway."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the tokenizer; fp32 is IEEE float32, which gives the same codes on every device but for ties. tf32
    and bf16 are faster on GPUs and give some other codes; the index says so."""
    overwrite: bool = False
    """Replace a finished set of codes in `out`."""
    part: int = 0
    """Which of `parts` this job encodes, from 0."""
    parts: int = 1
    """Number of jobs to split the shards among; each writes its own folder in `out`, which stage2_prior.codes.shares
    joins."""

    def __post_init__(self) -> None:
        at_least(1, self, "batch_size", "threads")
        check("allow_left_out", self.allow_left_out, 0 <= self.allow_left_out <= 1, "a share from 0 to 1")
        check("crops", self.crops, self.crops in (1, 5, 10), "1 (the picture), 5 (corners and centre) or 10 (ten-crop)")
        if self.crops == 10 and self.flip:
            raise ValueError("crops=10 has mirror images already: leave flip out, or set crops to 5")
        check("part", self.part, 0 <= self.part < self.parts, f"a number between 0 and parts - 1 = {self.parts - 1}")
