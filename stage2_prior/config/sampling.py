"""Settings of stage2_prior.sample and stage2_prior.inpaint."""

from dataclasses import dataclass
from typing import Literal

from launch.command.checks import at_least, check
from stage2_prior.config.drawing import Drawing


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Drawing):
    """Sample pictures of every class or prompt."""

    prior: str
    """A finished run's folder or a released prior."""
    tokenizer: str
    """The released tokenizer that made the prior's training codes; another one is refused."""
    out: str
    """Folder for the pictures; rerun the command to continue an interrupted sampling."""
    count: int = 10
    """Pictures of each class."""
    classes: list[str] | None = None
    """Names or numbers of the classes to sample; none for pictures of no class. null: all classes."""
    prompt: str | None = None
    """A text to sample pictures of; needs a prior trained with model.condition=text."""
    prompts: str | None = None
    """A file with one text per line; `count` pictures of each."""
    text_encoder: str | None = None
    """Folder or Hub name of the frozen text encoder, if it has moved since training."""
    seed: int = 0
    """Seed; a picture depends only on it, the class and the picture's number."""
    batch_size: int = 64
    """Pictures drawn at once on each rank. Other sizes give the same pictures up to rounding."""
    decode_batch: int = 16
    """Pictures decoded at once."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the prior; its weights are cast to this type. On GPUs, bf16 is also the decoder's."""
    compile: bool = False
    """Compile the pieces of a token's CUDA graph, which takes a minute or so; for autoregressive, depth and delay on
    GPUs."""
    npz: bool = False
    """Also write OUT/samples.npz (arr_0, uint8 NHWC), which the ADM evaluation suite reads."""
    mp4: bool = False
    """Of videos: also write each as an .mp4, with loss."""
    windows: int = 1
    """Of videos: windows of the trained length that make up one. Each but the first begins with the last `overlap`
    frames of the one before."""
    overlap: int | None = None
    """Of videos: frames that two windows share; they end where a code ends. Null: those of half of the codes."""
    part: int = 0
    """Which of `parts` this job samples, from 0."""
    parts: int = 1
    """Number of jobs to split the batches among; run the command without parts afterwards to complete the set."""
    dry_run: bool = False
    """Print what would be sampled, and sample nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        subjects = [name for name in ("classes", "prompt", "prompts") if getattr(self, name) is not None]
        if len(subjects) > 1:
            raise ValueError(f"{' and '.join(subjects)} are both set: leave one of them out")
        at_least(1, self, "count", "batch_size", "decode_batch", "windows", "overlap")
        if self.overlap is not None and self.windows == 1:
            raise ValueError(f"overlap={self.overlap} needs several windows: set windows to 2, or leave overlap out")
        check("seed", self.seed, self.seed >= 0, "0 or more")
        check("part", self.part, 0 <= self.part < self.parts, f"a number between 0 and parts - 1 = {self.parts - 1}")


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(SampleConfig):
    """Redraw parts of given pictures, sounds or videos; of videos also frames before, after or between given ones."""

    given: str
    """An index of pictures (or sounds), a folder of their files, or one file."""
    limit: int = 16
    """Most pictures of `given` to use; of an index evenly spaced."""
    keep: Literal["top", "bottom", "left", "right", "middle", "border", "start", "end", "ends"] = "top"
    """What stays of each picture. middle: a box in the middle; border: everything around such a box. Of a sound: start
    (which top means too), end, both ends, middle. Of a video: start (also top), end or both ends in time; left, right,
    middle or border of all frames."""
    share: float = 0.5
    """How much stays, as a share of the height or width (middle, border: of both), or of a sound's or video's
    length."""
    frames: int | None = None
    """Of a video, instead of `share`: how many frames stay, with keep=ends at each end."""
    mask: str | None = None
    """A black-and-white picture whose white parts are redrawn, instead of `keep`: a square one for the prepared
    pictures, or one of the given pictures' own size."""
    count: int = 4
    """Results for each given picture."""
    classes: list[str] | None = None
    """A class for all pictures, or one for each; null: their labels, by the classes' names, if `given` is an index."""
    prompts: str | None = None
    """A file with a line of text for each picture (or `prompt`, one for all); null: the captions of an index."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("share", self.share, 0 < self.share < 1, "a number in (0, 1), such as 0.5")
        for name, default in (("keep", "top"), ("share", 0.5)):
            if self.mask is not None and getattr(self, name) != default:
                raise ValueError(f"mask and {name} are both set: leave one of them out")
        if self.frames is not None and self.share != 0.5:
            raise ValueError("frames and share are both set: leave one of them out")
        if self.frames is not None and self.keep not in ("top", "bottom", "start", "end", "ends"):
            raise ValueError(f"frames={self.frames} is not supported with keep={self.keep}: set keep to start, for one")
        at_least(1, self, "limit", "frames")
