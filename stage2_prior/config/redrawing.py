"""Settings of stage2_prior.redraw."""

from dataclasses import dataclass
from typing import Literal

from launch.command.checks import at_least, check
from stage2_prior.config.drawing import Drawing


@dataclass(frozen=True, kw_only=True)
class RedrawConfig(Drawing):
    """Draw the codes of stored samples again, given their classes or texts and a share of their own codes."""

    prior: str
    """A finished run's folder or a released prior."""
    codes: str
    """Index of the stored codes, of stage2_prior.encode. Crops and mirror images in it are left out."""
    out: str
    """Folder for the code shards and index.json; rerun the command to continue an interrupted run."""
    true_share: float = 0.7
    """Share of a sample's codes that are kept, drawn for each code by itself; the prior draws the others and sees those
    that are kept. 0.7 in RobusTok; 0: all codes are drawn."""
    seed: int = 0
    """Seed; what is drawn for a sample depends only on it, the sample's key and its shard's number."""
    batch_size: int = 64
    """Samples drawn at once on each rank. Other sizes give the same codes up to rounding."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the prior; its weights are cast to this type."""
    text_encoder: str | None = None
    """Folder or Hub name of the frozen text encoder, if it has moved since training."""
    overwrite: bool = False
    """Replace a finished set of codes in `out`."""
    part: int = 0
    """Which of `parts` this job redraws, from 0."""
    parts: int = 1
    """Number of jobs to split the shards among; each writes its own folder in `out`, which stage2_prior.codes.shares
    joins."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("true_share", self.true_share, 0 <= self.true_share <= 1, "a share from 0 to 1")
        at_least(1, self, "batch_size", "parts")
        at_least(0, self, "seed")
        check("part", self.part, 0 <= self.part < self.parts, f"a number between 0 and parts - 1 = {self.parts - 1}")
