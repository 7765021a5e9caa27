"""Settings of the networks for sound: `seanet` on waveforms, `vocos` on the frames of a Fourier transform."""

import math
from dataclasses import dataclass, field
from typing import Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True)
class SeanetConfig:
    """Convolutions on waveforms. The defaults are EnCodec's at 24 kHz, but for what lies before the start (padding)."""

    strides: list[int] = field(default_factory=lambda: [2, 4, 5, 8])
    """Stride of each stage of the encoder, whose width doubles from stage to stage; the decoder goes backwards."""
    dilations: list[int] = field(default_factory=lambda: [1])
    """Dilation of each residual unit of a stage: [1, 3, 9] in SoundStream and DAC."""
    kernels: list[int] = field(default_factory=lambda: [3, 7, 7])
    """Kernel sizes of residual units, of the encoder's and of the decoder's last convolution: [7, 3, 7] in DAC."""
    compress: int = 2
    """Divisor of the width inside residual units: 1 in DAC."""
    shortcut: Literal["conv", "input"] = "conv"
    """What residual units add: a 1x1 convolution of their input, or the input (DAC, Mimi)."""
    activation: Literal["elu", "snake"] = "elu"
    """snake: x + sin²(αx)/α with a learned α for each channel (DAC)."""
    tanh: bool = False
    """Bound the waveform by tanh (DAC); there is no adaptive weight then."""
    lstm: int = 2
    """LSTM layers at the latents' rate, in encoder and decoder; 0: none."""
    decoder_channels: int | None = None
    """Width of the decoder at full resolution; null: model.channels. DAC has 64 and 96."""
    weight_norm: bool = True
    """Split each kernel into direction and length (Salimans and Kingma 2016)."""
    causal: bool = True
    """Never look ahead, so that sound can be streamed."""
    padding: Literal["zeros", "reflect"] = "zeros"
    """What lies beyond the ends. reflect (EnCodec) looks ahead in the first frames."""
    odd_trim: bool = False
    """Drop one sample more after transposed convolutions of odd stride, as DAC does; zeros fill up the end."""
    layers: int = 0
    """Blocks of the transformers at the latents' rate (Mimi: 8), in encoder and decoder, as wide as the latents."""
    heads: int = 8
    """Attention heads of the transformers."""
    window: int = 250
    """Positions that a position of the transformers attends to, itself included."""
    resample: int = 1
    """Stride between the transformers and the codes (Mimi: 2)."""
    block: int = 8
    """With causal: frames of codes that are encoded and decoded at a time, in a stream and outside of one."""

    def __post_init__(self) -> None:
        at = "model.seanet."
        for name in ("strides", "dilations"):
            values = getattr(self, name)
            check(at + name, values, bool(values) and min(values) >= 1, "one or more whole numbers from 1 on")
        odd = len(self.kernels) == 3 and all(size >= 1 and size % 2 for size in self.kernels)
        check(at + "kernels", self.kernels, odd, "three odd numbers")
        at_least(1, self, "compress", "decoder_channels", "heads", "window", "resample", "block", prefix=at)
        at_least(0, self, "lstm", "layers", prefix=at)
        check(at + "causal", self.causal, self.causal or not self.layers, "true, as the transformers (layers) are")
        check(at + "odd_trim", self.odd_trim, not (self.odd_trim and self.causal), "false, as causal is true")
        least = max(self.kernels) if self.causal and self.padding == "reflect" else 1
        check(at + "block", self.block, self.block >= least, f"{least} or more, so that there is enough to reflect")

    @property
    def hop(self) -> int:
        """Samples per frame of codes."""
        return math.prod(self.strides) * self.resample


@dataclass(frozen=True)
class VocosConfig:
    """ConvNeXt blocks at the frames' rate, between a Fourier transform and its inverse (Siuzdak 2023)."""

    hop: int = 256
    """Samples per frame, each of which has a code."""
    window: int = 1024
    """Samples in the window of a frame: usually 4 times the hop."""
    width: int = 256
    """Channels of the blocks; 3 times as many inside."""
    blocks: list[int] = field(default_factory=lambda: [4, 4])
    """Number of blocks in the encoder and in the decoder."""
    attention: bool = False
    """In the decoder, four residual blocks with attention to the whole sound amid them before its blocks
    (WavTokenizer)."""
    loudest: float | None = None
    """Limit of the decoder's magnitudes (WavTokenizer: 100); null: window / 2, which a constant of full scale has."""

    def __post_init__(self) -> None:
        at_least(1, self, "hop", "width", prefix="model.vocos.")
        check(
            "model.vocos.blocks", self.blocks, len(self.blocks) == 2 and min(self.blocks) >= 1, "two numbers from 1 on"
        )
        good = self.window >= 2 * self.hop and (self.window - self.hop) % 2 == 0
        check("model.vocos.window", self.window, good, f"{2 * self.hop} (2·hop) or more, odd only if the hop is")
        check("model.vocos.loudest", self.loudest, self.loudest is None or self.loudest > 0, "above 0, or null")
