"""Settings of the networks along time (model.video), for backbones conv and conv_plus with spatial_dims=3."""

from dataclasses import dataclass, field
from typing import Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True)
class VideoNetConfig:
    """What convolutional networks do along time. The defaults treat it as a third axis like height and width."""

    causal: bool = False
    """Never look ahead. Convolutions see the first frame repeated before the clip; the first frame has codes of its
    own, so that a clip has 1 + k·s frames, s being the stride of time, and a picture is a clip of one frame."""
    by_frame: bool = False
    """Norms and attention are of each frame by itself, as they always are if causal; false: of the whole clip."""
    front: bool = False
    """For networks that aren't causal, as their norms are over the clip: convolutions see zeros before it and nothing
    after it, and the first frame has codes of its own (Open-MAGVIT2)."""
    factorised: bool = False
    """Convolutions of blocks and of changes of resolution in two: 1×3×3, then 3×1×1."""
    time_strides: list[int] = field(default_factory=list)
    """Stride of time, 1 or 2, of each change of resolution, from full resolution on: one for each level but the last;
    none: 2 in all."""
    space_strides: list[int] = field(default_factory=list)
    """As time_strides, of height and width."""
    layers: Literal["vqgan", "cosmos"] = "vqgan"
    """cosmos (Cosmos tokenizers), with causal and backbone=conv: always factorised; norms over all channels of a frame;
    resolution changes by a convolution beside a mean or copies; attention along time, too, to all frames before."""
    haar: int = 1
    """Side of the blocks that a Haar wavelet transform turns into channels before the networks and back after them, in
    time too: 1 (none), 2 or 4 (Cosmos). With causal, the first frame is repeated to fill its block."""
    block: int = 4
    """With causal: frames of codes that are encoded and decoded at a time, in a stream and outside of one, after the
    first frame, which is always by itself."""

    def __post_init__(self) -> None:
        at = "model.video."
        for name in ("time_strides", "space_strides"):
            values = getattr(self, name)
            check(at + name, values, all(value in (1, 2) for value in values), "a list of 1 and 2")
        check(at + "haar", self.haar, self.haar in (1, 2, 4), "1, 2 or 4")
        at_least(1, self, "block", prefix=at)
        check(at + "causal", self.causal, self.causal or self.layers == "vqgan", "true, as layers=cosmos are")
        check(at + "front", self.front, not (self.front and self.causal), "false, as causal is true")

    @property
    def kind(self) -> str:
        """The layers that networks are made of (stage1_tokenizer.networks.along_time)."""
        return "alike" if self == VideoNetConfig() else "video" if self.layers == "vqgan" else self.layers

    @property
    def first_alone(self) -> bool:
        """Whether the first frame has codes of its own."""
        return self.causal or self.front

    @property
    def apart(self) -> bool:
        """Whether norms and attention are of each frame by itself."""
        return self.causal or self.by_frame


def decoder_strides(strides: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(time, space) of each change of resolution of Cosmos' decoders, from those of the encoder.

    From the latents on: the first change is not of time; pixels go before where they are doubled more often.
    """
    times, spaces = (sum(one == 2 for one in each) for each in zip(*strides, strict=True))
    found = []
    for place in range(len(strides)):
        time = 0 < place < times + 1
        space = time or (place < spaces and spaces > times)
        found.append((1 + time, 1 + space))
    made = [sum(one == 2 for one in each) for each in zip(*found, strict=True)]
    return list(reversed(found)) if made == [times, spaces] else strides
