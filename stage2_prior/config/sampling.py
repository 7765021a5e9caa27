"""Settings of stage2_prior.sample and stage2_prior.inpaint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stage2_prior.config.drawing import Drawing


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Drawing):
    """Sample pictures of every class."""

    prior: str
    """A finished run's folder or a released prior."""
    tokenizer: str
    """The released tokenizer whose codes the prior was trained on; another one is refused."""
    out: str
    """Folder for the pictures; an interrupted sampling there is continued."""
    count: int = 10
    """Pictures of each class."""
    classes: list[str] | None = None
    """Names or numbers of the classes to sample, none for pictures of no class; null for all classes."""
    prompt: str | None = None
    """A text to sample pictures of, with a prior trained with model.condition=text."""
    prompts: str | None = None
    """A file of such texts, one a line; `count` pictures of each."""
    text_encoder: str | None = None
    """Where the frozen text encoder lies, if not where it lay in training."""
    seed: int = 0
    """Seed; with the class and the picture's number it decides everything random."""
    batch_size: int = 64
    """Pictures drawn at once on each rank. Other sizes give the same pictures up to rounding."""
    decode_batch: int = 16
    """Pictures decoded at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the prior."""
    compile: bool = False
    """Draw by a compiled step that is one CUDA graph, after a minute or more of compiling; for one token at a time."""
    npz: bool = False
    """Also write OUT/samples.npz (arr_0, uint8 NHWC), which the ADM evaluation suite reads."""
    part: int = 0
    """Which of `parts` this is, from 0."""
    dry_run: bool = False
    """Say what would be drawn, and draw nothing (--dry-run true is the same)."""
    parts: int = 1
    """Share the batches out to so many jobs; the same command without parts then completes the set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = [name for name in ("classes", "prompt", "prompts") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} are both set: leave one of them out")
        for name in ("count", "batch_size", "decode_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: set it to 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is negative: set it to 0 or more")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part={self.part} is none of parts={self.parts}: count from 0 to {self.parts - 1}")


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(SampleConfig):
    """Draw parts of given pictures anew."""

    given: str
    """An index of pictures, a folder of picture files, or one file."""
    limit: int = 16
    """Pictures taken of `given` at most; of an index evenly spaced."""
    keep: Literal["top", "bottom", "left", "right", "middle", "border"] = "top"
    """What of each picture stays. middle: a box, what is around it is drawn; border: all but a box in the middle."""
    share: float = 0.5
    """How much stays, of the height or width (middle, border: of both)."""
    mask: str | None = None
    """A picture whose light parts are drawn anew, instead of `keep`; it is stretched to the prepared pictures' size."""
    count: int = 4
    """Results for each given picture."""
    classes: list[str] | None = None
    """A class for all pictures, or one for each; null: their labels in an index of the prior's classes, else none."""
    prompts: str | None = None
    """A file with a text for each picture, one a line (or `prompt`, one for all); null: their captions in an index."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share} is not in (0, 1): set what is to stay, such as 0.5")
        if self.limit < 1:
            raise ValueError(f"limit={self.limit} is too small: set it to 1 or more")
