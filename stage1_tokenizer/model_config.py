"""The networks of a tokenizer: every setting of encoder and decoder, checked where it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stage1_tokenizer.quantizer_config import QuantizerConfig
from stage1_tokenizer.quantizer_config import check as _check


@dataclass(frozen=True)
class ModelConfig:
    """The networks of a tokenizer: encoder, quantizer, decoder."""

    spatial_dims: Literal[1, 2, 3] = 2
    """1 for audio, 2 for pictures, 3 for video: chooses the convolutions."""
    in_channels: int = 3
    """Channels of the data: 3 for colour, 1 for grey."""
    channels: int = 128
    """Width at full resolution."""
    channel_multipliers: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])
    """Width of each level over `channels`; between two levels the resolution halves, so 5 levels make a 1/16 grid."""
    res_blocks: int = 2
    """Residual blocks of each level (the decoder has one more)."""
    attention: bool = True
    """Self-attention at the lowest resolution."""
    z_channels: int = 256
    """Channels that the encoder gives and the decoder takes; 1x1 convolutions lie between them and the quantizer."""
    dropout: float = 0.0
    """Dropout inside residual blocks."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """How latent vectors become codes."""

    def __post_init__(self) -> None:
        _check("model.in_channels", self.in_channels, self.in_channels >= 1, "1 or more")
        _check("model.channels", self.channels, self.channels >= 1, "1 or more")
        _check("model.res_blocks", self.res_blocks, self.res_blocks >= 1, "1 or more")
        _check("model.z_channels", self.z_channels, self.z_channels >= 1, "1 or more")
        _check("model.dropout", self.dropout, 0 <= self.dropout < 1, "a share from 0 to below 1")
        if self.quantizer.kind == "multiscale" and self.spatial_dims != 2:
            raise ValueError(
                f"model.spatial_dims={self.spatial_dims} can't have model.quantizer.kind=multiscale, which is for "
                f"pictures: set it to 2, or choose kind=residual"
            )
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise ValueError(
                f"model.channel_multipliers={list(self.channel_multipliers)} must be one or more whole numbers from 1 "
                f"on: set it to [1, 2, 4], for example"
            )

    @property
    def stride(self) -> int:
        """Pixels per latent position along each axis."""
        return 1 << (len(self.channel_multipliers) - 1)
