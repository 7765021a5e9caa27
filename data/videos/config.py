"""How a video becomes a clip: settings that travel with releases and code shards. No torch here."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from data.pictures.config import FrameConfig
from launch.command.checks import at_least, check


@dataclass(frozen=True, kw_only=True)
class VideoConfig(FrameConfig):
    """How a video of any format, size and length becomes `frames` frames of size×size pixels.

    Crop, flip, `resize` and the rest are those of pictures, and one for all frames of a clip.
    """

    kind: Literal["videos"] = "videos"
    """Kind of the samples, which decides what other settings there are."""
    size: int = 128
    """Pixels of each side of the frames."""
    frames: int = 17
    """Frames T of the clip. Of a tokenizer that is causal in time: 1 + a multiple of its stride in time."""
    stride: int = 1
    """Every how manyth frame of the video is taken."""
    frame_rate: float | None = None
    """Frames a second of the clip, whatever the video's own rate: each is the frame that is shown at its time. Null:
    by `stride`."""
    random_start: bool = True
    """In training, begin the clip at a random frame of a longer video instead of so that its middle is taken."""
    short: Literal["hold", "drop"] = "hold"
    """What is done with a video that is shorter than the clip. hold: its last frame is repeated; drop: in training, the
    nearest other sample takes its place, without being counted as damaged."""

    def __post_init__(self) -> None:
        if self.kind != "videos":
            raise ValueError(f"transform.kind={self.kind} has other settings than videos: set kind to videos")
        super().__post_init__()
        at_least(1, self, "frames", "stride", prefix="transform.")
        rate = self.frame_rate
        check("transform.frame_rate", rate or 0, rate is None or 0 < rate <= 1000, "frames a second, or to null")
        if rate is not None and self.stride != 1:
            raise ValueError(
                f"transform.stride={self.stride} counts frames and transform.frame_rate={rate:g} seconds: set stride "
                "to 1, or frame_rate to null"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of a clip's axes (T, H, W), without channels."""
        return (self.frames, self.size, self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: releases and code indexes carry them."""
        return asdict(self)
