"""Settings of the networks for pictures: `conv_plus` without attention, which videos have too, and `vit` on patches."""

from dataclasses import dataclass, field
from typing import Literal

from launch.command.checks import at_least, check


@dataclass(frozen=True)
class ConvPlusConfig:
    """Variants of the published convolutional tokenizers without attention; the defaults are Open-MAGVIT2's."""

    downsample: Literal["conv", "pool"] = "conv"
    """conv: 3x3 of stride 2 with zero padding on every side (Open-MAGVIT2); pool: 2x2 average pooling (MaskGIT)."""
    upsample: Literal["shuffle", "nearest"] = "shuffle"
    """shuffle: 3x3 to four times the channels, then depth to space (Open-MAGVIT2); nearest: nearest-neighbour
    interpolation, then 3x3 (MaskGIT)."""
    adaptive_norm: bool = True
    """Before each level of the decoder, group normalization, scaled and shifted by the latents' standard deviation and
    mean (Open-MAGVIT2); false: none (MaskGIT)."""
    shortcut: Literal["input", "inner"] = "input"
    """If a block's width changes, its 1x1 convolution takes the block's input, or the output of its two convolutions,
    which drops the input (MaskGIT as published)."""


@dataclass(frozen=True)
class TransformerConfig:
    """Size of one of the two transformers; the defaults are ViT-VQGAN's and TiTok's small one."""

    width: int = 512
    """Channels of a token."""
    depth: int = 8
    """Number of blocks."""
    heads: int = 8
    """Attention heads per block; must divide the width."""


@dataclass(frozen=True)
class VitConfig:
    """Transformers on patches: ViT-VQGAN by default; TiTok has latent_tokens, patch=16, head=linear."""

    size: int = 256
    """Size of the pictures for which positions are learned. Positions are interpolated for other sizes, which are not
    supported with latent tokens."""
    patch: int = 8
    """Side of a patch; each patch is one token."""
    latent_tokens: int = 0
    """Number of learned tokens that become the codes, so that a picture is a sequence (N,); 0: one code per patch."""
    positions: Literal["learned", "sincos"] = "learned"
    """Positions of patches: learned vectors, or sines and cosines of row and column."""
    head: Literal["tanh", "linear"] = "tanh"
    """Last layers of both networks. tanh: two with tanh between, the decoder's to patches (ViT-VQGAN); linear: one,
    followed in the decoder by a 3x3 convolution on the pixels (TiTok)."""
    encoder: TransformerConfig = field(default_factory=TransformerConfig)
    """Size of the encoder."""
    decoder: TransformerConfig = field(default_factory=TransformerConfig)
    """Size of the decoder."""

    def __post_init__(self) -> None:
        at = "model.vit."
        at_least(1, self, "patch", prefix=at)
        at_least(0, self, "latent_tokens", prefix=at)
        fits = self.size >= 1 and self.size % self.patch == 0
        check(at + "size", self.size, fits, f"a multiple of model.vit.patch={self.patch}")
        for name, shape in (("encoder", self.encoder), ("decoder", self.decoder)):
            at_least(1, shape, "depth", "heads", prefix=f"{at}{name}.")
            least = 4 * shape.heads if self.positions == "sincos" else shape.heads
            fits = shape.width >= 1 and shape.width % least == 0
            check(f"{at}{name}.width", shape.width, fits, f"a multiple of {least}, for its heads and positions")
