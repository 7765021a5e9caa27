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


@dataclass(frozen=True, kw_only=True)
class VideoConvertConfig:
    """What is done to each video. Those that are encoded again lose their sound."""

    side: int | None = None
    """Pixels of the shorter side; a smaller video stays as it is. Null: the video keeps its size."""
    gop: int | None = None
    """Frames from one key frame to the next, at most: where clips are cut at random, 16 makes reading cheap, as all
    frames after a key frame have to be decoded. Null: the video keeps its own; one that is encoded again gets 16."""
    frame_rate: float | None = None
    """Frames a second; null: frames keep their times, and those of kinds without times are shown for 0.1 s."""
    format: Literal["keep", "mp4", "webp"] = "keep"
    """keep: the original bytes where all else is kept too, else mp4 (frames without a file: webp). mp4 is H.264 and
    cuts off the last row or column of odd sizes; webp is an animation without loss."""
    quality: int = 18
    """Constant rate factor of mp4: 0 (without loss of what 4:2:0 keeps) to 51; 18 is hardly visible."""
    check: Literal["none", "header", "decode"] = "header"
    """How videos whose bytes are kept are checked: none; header (finds other files, those without frames and those
    that end too early); decode (finds all that can't be decoded). Those that fail are left out and listed."""
    least_frames: int = 1
    """A video with fewer frames is left out."""
    max_pixels: int = 100_000_000
    """A video whose frames have more pixels is left out."""

    def __post_init__(self) -> None:
        at_least(1, self, "side", "gop", "least_frames", "max_pixels", prefix="video.")
        check("video.quality", self.quality, 0 <= self.quality <= 51, "0 to 51, such as 18")
        rate = self.frame_rate
        check("video.frame_rate", rate or 0, rate is None or 0 < rate <= 1000, "frames a second, or to null")

    @property
    def keeps_bytes(self) -> bool:
        """Whether encoded videos go into the shards as they are."""
        return self.side is None and self.gop is None and self.frame_rate is None and self.format == "keep"
