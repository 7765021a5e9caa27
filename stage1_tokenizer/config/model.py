"""Settings of a tokenizer's networks."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from launch.command.checks import at_least, check
from stage1_tokenizer.config.picture_networks import ConvPlusConfig as ConvPlusConfig
from stage1_tokenizer.config.picture_networks import TransformerConfig as TransformerConfig
from stage1_tokenizer.config.picture_networks import VitConfig as VitConfig
from stage1_tokenizer.config.quantizer import QuantizerConfig
from stage1_tokenizer.config.sound_networks import SeanetConfig, VocosConfig
from stage1_tokenizer.config.video_networks import VideoNetConfig

SOUND = {"seanet": ("seanet",), "vocos": ("vocos",), "seanet_vocos": ("seanet", "vocos")}
"""The backbones for sound, with the settings that they use."""


@dataclass(frozen=True)
class ModelConfig:
    """The networks of a tokenizer: encoder, quantizer, decoder."""

    backbone: Literal["conv", "conv_plus", "vit", "movq", "seanet", "vocos", "seanet_vocos"] = "conv"
    """conv: VQGAN's (taming-transformers, LlamaGen, IBQ, VAR, diffusers); conv_plus: residual blocks without biases or
    attention, as many in the middle as in a level (MaskGIT, Open-MAGVIT2); vit: transformers on patches (ViT-VQGAN,
    TiTok); movq: conv on each frame of a video, with layers along time at the latents (Emu3); for sound: seanet,
    convolutions (EnCodec, DAC, Mimi), vocos, blocks between Fourier transforms, and seanet_vocos, the encoder of one
    and the decoder of the other (WavTokenizer). vit and those for sound do not use channel_multipliers, res_blocks and
    attention."""
    conv_plus: ConvPlusConfig = field(default_factory=ConvPlusConfig)
    """Settings of backbone=conv_plus."""
    vit: VitConfig = field(default_factory=VitConfig)
    """Settings of backbone=vit."""
    seanet: SeanetConfig = field(default_factory=SeanetConfig)
    """Settings of backbone=seanet, and of the encoder of seanet_vocos."""
    vocos: VocosConfig = field(default_factory=VocosConfig)
    """Settings of backbone=vocos, and of the decoder of seanet_vocos."""
    spatial_dims: Literal[1, 2, 3] = 2
    """Axes of the convolutions: 1 for audio, 2 for pictures, 3 for video."""
    video: VideoNetConfig = field(default_factory=VideoNetConfig)
    """With spatial_dims=3, what convolutional networks do along time."""
    in_channels: int = 3
    """Channels of the data: 3 for colour, 1 for grey."""
    pixel_range: Literal["symmetric", "unit"] = "symmetric"
    """Range of the encoder's input: [-1, 1], or [0, 1] as in MaskGIT. Pictures are passed in [-1, 1] in both cases; the
    range matters at the borders, where convolutions pad with zeros."""
    channels: int = 128
    """Width at full resolution."""
    channel_multipliers: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])
    """Width of each level over `channels`; the resolution halves between levels, so 5 levels give a 1/16 grid."""
    res_blocks: int = 2
    """Residual blocks per level (with conv, the decoder has one more)."""
    attention: bool = True
    """With conv: self-attention at the lowest resolution; false: none anywhere."""
    attention_levels: list[int] | None = None
    """With conv: the levels that have attention, 0 being the full resolution; null: the lowest one. Published
    configurations name resolutions instead: attn_resolutions=[16] at resolution=256 is level 4, as 256 / 2^4 = 16."""
    attention_middle: bool = True
    """With conv: attention between the two middle blocks too (as in all published models with attention)."""
    z_channels: int = 256
    """Output channels of the encoder and input channels of the decoder, before and after the bridge convolutions."""
    double_z: bool = False
    """The encoder has 2·z_channels outputs: mean and variance of a published Gaussian VAE."""
    quant_conv_kernel: Literal[0, 1, 3] = 1
    """Kernel size of the convolutions before and after the quantizer (quant_conv, post_quant_conv): usually 1, 3 for
    VAR; 0: none (MaskGIT, Open-MAGVIT2), and z_channels must match the quantizer."""
    dropout: float = 0.0
    """Dropout rate in residual blocks."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """How latent vectors become codes."""

    def __post_init__(self) -> None:
        at_least(1, self, "in_channels", "channels", "res_blocks", "z_channels", prefix="model.")
        check("model.dropout", self.dropout, 0 <= self.dropout < 1, "a share from 0 to below 1")
        levels = self.attention_levels
        if levels is not None and not all(0 <= level < len(self.channel_multipliers) for level in levels):
            raise ValueError(
                f"model.attention_levels={list(levels)} must lie in [0, {len(self.channel_multipliers)}), the levels "
                f"of model.channel_multipliers: leave off the others"
            )
        self._check_unused()
        self._check_widths()
        self._check_time()
        if self.quantizer.kind == "multiscale" and self.spatial_dims != 2:
            raise ValueError(
                f"model.spatial_dims={self.spatial_dims} is not supported with model.quantizer.kind=multiscale, which "
                f"is for pictures: set it to 2, or choose kind=residual"
            )
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise ValueError(
                f"model.channel_multipliers={list(self.channel_multipliers)} must be one or more whole numbers from 1 "
                f"on: set it to [1, 2, 4], for example"
            )

    def _check_unused(self) -> None:
        """Refuse settings that the backbone does not use."""
        conv, vit, sound = self.backbone in ("conv", "movq"), self.backbone == "vit", self.backbone in SOUND
        unused = {
            "attention_levels": not (conv and self.attention) and self.attention_levels is not None,
            "attention_middle": not (conv and self.attention) and not self.attention_middle,
            "channels": self.backbone in ("vit", "vocos") and self.channels != 128,
            "channel_multipliers": (vit or sound) and list(self.channel_multipliers) != [1, 1, 2, 2, 4],
            "res_blocks": (vit or sound) and self.res_blocks != 2,
            "dropout": sound and self.dropout != 0,
        }
        kinds = {"conv_plus": ConvPlusConfig, "vit": VitConfig, "seanet": SeanetConfig, "vocos": VocosConfig}
        used = SOUND.get(self.backbone, (self.backbone,))
        unused |= {name: name not in used and getattr(self, name) != kind() for name, kind in kinds.items()}
        for name, is_unused in unused.items():
            if is_unused:
                raise ValueError(
                    f"model.{name}={getattr(self, name)} has no meaning with model.backbone={self.backbone}, "
                    f"model.attention={self.attention}: leave it out"
                )
        if self.video != VideoNetConfig() and (self.spatial_dims != 3 or vit or sound):
            raise ValueError(
                f"model.video={self.video} is for model.spatial_dims=3 and backbone=conv or conv_plus, not for "
                f"spatial_dims={self.spatial_dims} and backbone={self.backbone}: leave it out"
            )
        movq = self.backbone == "movq"
        axes = 3 if movq else 1 if sound else 2
        if (vit or sound or movq) and self.spatial_dims != axes:
            value = f"model.spatial_dims={self.spatial_dims}"
            raise ValueError(f"{value} is not for model.backbone={self.backbone}: set it to {axes}")
        if self.latent_tokens and self.quantizer.kind == "multiscale":
            raise ValueError(
                f"model.vit.latent_tokens={self.latent_tokens} makes no grid to shrink, as "
                f"model.quantizer.kind=multiscale needs: set it to 0, or choose kind=residual"
            )

    def _check_widths(self) -> None:
        """Heads share the latents' channels; without bridge convolutions these are those of the quantizer."""
        even, step = 2 * self.seanet.heads if self.seanet.layers else 1, math.lcm(*self.quantizer.strides)
        check("model.z_channels", self.z_channels, self.z_channels % even == 0, f"a multiple of {even}, for its heads")
        fits = self.spatial_dims == 3 or self.block % step == 0
        check("model.seanet.block", self.block, fits, f"a multiple of {step}, of quantizer.strides")
        meets = self.backbone != "seanet_vocos" or self.vocos.hop == self.seanet.hop
        check("model.vocos.hop", self.vocos.hop, meets, f"{self.seanet.hop}, the product of model.seanet.strides")
        quantizer, z_channels = self.quantizer, self.z_channels
        width, twice = quantizer.width, quantizer.double_input
        if self.quant_conv_kernel or width is None:
            return
        if z_channels != width or self.double_z != twice:
            raise ValueError(
                f"model.quant_conv_kernel=0 joins encoder and quantizer directly, but model.z_channels={z_channels}, "
                f"model.double_z={self.double_z} don't fit kind={quantizer.kind}: set them to {width} and {twice}"
            )

    def _check_time(self) -> None:
        """The strides of videos fit the levels, and nothing that promises causality looks ahead."""
        changes = len(self.channel_multipliers) - 1
        for name in ("time_strides", "space_strides"):
            strides = getattr(self.video, name)
            rule = f"{changes} numbers, one for each change of resolution between model.channel_multipliers, or none"
            check(f"model.video.{name}", strides, len(strides) in (0, changes), rule)
        if self.video.causal and self.quant_conv_kernel == 3:
            raise ValueError(
                "model.quant_conv_kernel=3 looks ahead, which model.video.causal=true rules out: set it to 1 or 0"
            )
        others = replace(self.video, time_strides=[]) != VideoNetConfig() or self.quant_conv_kernel or self.double_z
        if self.backbone == "movq" and others:
            raise ValueError(
                f"model.backbone=movq has model.video.time_strides, but not the rest of model.video={self.video}; and "
                f"it needs quant_conv_kernel=0, double_z=false: leave the others out"
            )
        if self.video.layers == "cosmos" and self.backbone != "conv":
            raise ValueError(
                f"model.video.layers=cosmos needs model.backbone=conv, not {self.backbone}: change one of them"
            )
        if self.spatial_dims == 3 and any(step > 1 for step in self.quantizer.strides):
            raise ValueError(f"model.quantizer.strides={list(self.quantizer.strides)} is for sounds: leave it out")

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def time_strides(self) -> list[int]:
        """Of videos, the stride of time of each change of resolution."""
        return list(self.video.time_strides) or [2] * (len(self.channel_multipliers) - 1)

    @property
    def space_strides(self) -> list[int]:
        """Of videos, the stride of height and width of each change of resolution."""
        return list(self.video.space_strides) or [2] * (len(self.channel_multipliers) - 1)

    @property
    def encoder_channels(self) -> int:
        """Output channels of the encoder."""
        return self.z_channels * (1 + self.double_z)

    @property
    def latent_tokens(self) -> int:
        """Length of the latent sequence; 0 if latents are on a grid."""
        return self.vit.latent_tokens if self.backbone == "vit" else 0

    @property
    def latent_dims(self) -> int:
        """Axes of the latents besides batch and channels: 1 for a sequence."""
        return 1 if self.latent_tokens else self.spatial_dims

    @property
    def block(self) -> int:
        """Latent positions along the first axis that are encoded and decoded at a time; 0: all of them."""
        if self.spatial_dims == 3:
            return self.video.block if self.video.causal else 0
        return self.seanet.block if self.backbone == "seanet" and self.seanet.causal else 0

    @property
    def first_alone(self) -> bool:
        """Whether the first frame has codes of its own, so that a clip has 1 + k·stride[0] frames."""
        return self.spatial_dims == 3 and self.video.first_alone

    def fitted(self, axis: int, size: int) -> int:
        """The size that fits the stride along an axis: this one or the next smaller one, or else the smallest."""
        first, step = int(self.first_alone and axis == 0), self.stride[axis]
        return first + max((size - first) // step, 1 - first) * step

    @property
    def stride(self) -> tuple[int, ...]:
        """Pixels or samples per latent position along each spatial axis; with latent tokens, the sides of a patch.

        Of videos (frames, pixels, pixels).
        """
        if self.spatial_dims == 3:
            strides = (self.time_strides, self.space_strides, self.space_strides)
            return tuple(self.video.haar * math.prod(one) for one in strides)
        halved = 1 << (len(self.channel_multipliers) - 1)
        sides = {"vit": self.vit.patch, "vocos": self.vocos.hop}
        sides |= dict.fromkeys(("seanet", "seanet_vocos"), self.seanet.hop)
        return (sides.get(self.backbone, halved),) * self.spatial_dims


def one_or_all(values: tuple[int, ...]) -> int | tuple[int, ...]:
    """The common value of all axes, or the values of all axes if they differ."""
    return values[0] if len(set(values)) == 1 else values


def norm_groups(channels: int) -> int:
    """The largest number of groups, at most 32, that divides the channels."""
    return next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)


def attention_levels(config: ModelConfig) -> set[int]:
    """The levels with attention."""
    if not config.attention:
        return set()
    lowest = [len(config.channel_multipliers) - 1]
    return set(lowest if config.attention_levels is None else config.attention_levels)
