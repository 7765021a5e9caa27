"""The networks of a tokenizer: every setting of encoder and decoder, checked where it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stage1_tokenizer.quantizer_config import QuantizerConfig
from stage1_tokenizer.quantizer_config import check as _check


@dataclass(frozen=True)
class ConvPlusConfig:
    """What the published convolutional tokenizers without attention differ in; the defaults are Open-MAGVIT2's."""

    downsample: Literal["conv", "pool"] = "conv"
    """conv: 3x3 of stride 2, a zero added on every side (Open-MAGVIT2); pool: the mean of 2x2 values (MaskGIT)."""
    upsample: Literal["shuffle", "nearest"] = "shuffle"
    """shuffle: 3x3 to four times the channels, which become 2x2 pixels (Open-MAGVIT2); nearest: each value repeated,
    then 3x3 (MaskGIT)."""
    adaptive_norm: bool = True
    """Before each level of the decoder, a normalisation scaled and shifted by the quantized latents' deviation and mean
    (Open-MAGVIT2); false: none (MaskGIT)."""
    shortcut: Literal["input", "inner"] = "input"
    """Where a block's width changes, its 1x1 convolution takes the block's input, or what its two convolutions gave, so
    that the input itself is lost (MaskGIT as published)."""


@dataclass(frozen=True)
class ModelConfig:
    """The networks of a tokenizer: encoder, quantizer, decoder."""

    backbone: Literal["conv", "conv_plus"] = "conv"
    """conv: VQGAN's (taming-transformers, LlamaGen, IBQ, VAR, diffusers); conv_plus: residual blocks without biases or
    attention, as many in the middle as in a level (MaskGIT, Open-MAGVIT2)."""
    conv_plus: ConvPlusConfig = field(default_factory=ConvPlusConfig)
    """With backbone=conv_plus: its variants."""
    spatial_dims: Literal[1, 2, 3] = 2
    """1 for audio, 2 for pictures, 3 for video: chooses the convolutions."""
    in_channels: int = 3
    """Channels of the data: 3 for colour, 1 for grey."""
    pixel_range: Literal["symmetric", "unit"] = "symmetric"
    """What the encoder sees: pixels in [-1, 1], or scaled to [0, 1] as in MaskGIT. Pictures are given in [-1, 1] in
    both cases; it matters at the borders, where convolutions see zeros."""
    channels: int = 128
    """Width at full resolution."""
    channel_multipliers: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])
    """Width of each level over `channels`; between two levels the resolution halves, so 5 levels make a 1/16 grid."""
    res_blocks: int = 2
    """Residual blocks of each level (with conv, the decoder has one more)."""
    attention: bool = True
    """With conv: self-attention at the lowest resolution; false: none anywhere."""
    attention_levels: list[int] | None = None
    """With conv: the levels that have attention, 0 being the full resolution; null: the lowest one. Published
    configurations name resolutions instead: attn_resolutions=[16] at resolution=256 is level 4, as 256 / 2^4 = 16."""
    attention_middle: bool = True
    """With conv: attention between the two blocks in the middle too (all published ones that have attention)."""
    z_channels: int = 256
    """Channels that the encoder gives and the decoder takes; convolutions lie between them and the quantizer."""
    double_z: bool = False
    """The encoder gives twice z_channels: mean and variance of a published Gaussian VAE."""
    quant_conv_kernel: Literal[0, 1, 3] = 1
    """Width of the convolutions before and after the quantizer (quant_conv, post_quant_conv): 1 mostly, 3 for VAR; 0:
    there are none (MaskGIT, Open-MAGVIT2), and z_channels must be what the quantizer takes and gives."""
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
        levels = self.attention_levels
        if levels is not None and not all(0 <= level < len(self.channel_multipliers) for level in levels):
            raise ValueError(
                f"model.attention_levels={list(levels)} must lie in [0, {len(self.channel_multipliers)}), the levels "
                f"of model.channel_multipliers: leave off the others"
            )
        self._check_unused()
        self._check_widths()
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

    def _check_unused(self) -> None:
        """What is set must be used, or refused."""
        plus = self.backbone == "conv_plus"
        without = plus or not self.attention
        unused = {
            "attention_levels": without and self.attention_levels is not None,
            "attention_middle": without and not self.attention_middle,
            "conv_plus": not plus and self.conv_plus != ConvPlusConfig(),
        }
        for name, set_in_vain in unused.items():
            if set_in_vain:
                raise ValueError(
                    f"model.{name}={getattr(self, name)} has no meaning with model.backbone={self.backbone}, "
                    f"model.attention={self.attention}: leave it out"
                )

    def _check_widths(self) -> None:
        """Without convolutions beside the quantizer, the networks must give and take what it does."""
        quantizer, z_channels = self.quantizer, self.z_channels
        bits = quantizer.codebook_size.bit_length() - 1
        width = {"fsq": len(quantizer.levels), "lfq": bits, "bsq": bits}.get(quantizer.kind, quantizer.code_dim)
        twice = quantizer.kind == "gaussian"
        if self.quant_conv_kernel == 0 and (z_channels != width or self.double_z != twice):
            raise ValueError(
                f"model.quant_conv_kernel=0 joins encoder and quantizer directly, but model.z_channels={z_channels}, "
                f"model.double_z={self.double_z} don't fit kind={quantizer.kind}: set them to {width} and {twice}"
            )

    @property
    def encoder_channels(self) -> int:
        """Channels of what the encoder gives."""
        return self.z_channels * (1 + self.double_z)

    @property
    def stride(self) -> int:
        """Pixels per latent position along each axis."""
        return 1 << (len(self.channel_multipliers) - 1)
