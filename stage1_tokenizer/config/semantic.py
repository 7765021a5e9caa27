"""Settings of the terms that compare features of frozen networks: loss.semantic and loss.logits."""

from dataclasses import dataclass, field
from typing import Literal

from launch.command.checks import at_least, check

Normalise = Literal["auto", "imagenet", "clip", "half", "none"]
"""Mean and deviation of a frozen network's input."""


@dataclass(frozen=True)
class SemanticConfig:
    """Alignment of the tokenizer with a frozen vision transformer: a term at projected features of the tokenizer."""

    weight: float = 0.0
    """Weight of the term; 0: none. Published: 0.5 (GigaTok), 0.1 (VA-VAE, SoftVQ, XQGAN)."""
    network: str | None = None
    """The frozen network: a folder, or a name on the Hub, that transformers' AutoModel loads: DINOv2 with and without
    registers, SigLIP, CLIP or another vision transformer, such as facebook/dinov2-base. Mind its licence."""
    at: Literal["latents", "codes", "decoder"] = "latents"
    """Features that are aligned: the quantizer's input (VA-VAE), its output (SoftVQ, XQGAN), or what the decoder has
    inside (GigaTok)."""
    layer: int = 3
    """With at=decoder, the block of a transformer whose output is aligned; convolutional decoders have one place, after
    their middle blocks."""
    branch: int | None = None
    """With at=codes and a product quantizer, the codebook whose code vectors alone are aligned, 0 being the first, -1
    the last (XQGAN); null: all of them."""
    form: Literal["cosine", "margin", "contrastive"] = "cosine"
    """cosine: 1 - cos at each position (GigaTok, SoftVQ); margin: relu(1 - m1 - cos) and relu(|difference of cosines
    between positions| - m2), with `margins` (VA-VAE); contrastive: each picture's mean feature against the network's
    pooled ones of the whole batch over all ranks, in both directions (XQGAN)."""
    margins: list[float] = field(default_factory=lambda: [0.5, 0.25])
    """With form=margin, m1 of cosines and m2 of differences."""
    scale: float = 1.0
    """With form=contrastive, the factor on the products."""
    unit_length: bool = False
    """With form=contrastive, scale the vectors to length 1 first, as CLIP (XQGAN's clip_norm)."""
    adaptive: bool = False
    """Multiply the weight by the ratio of gradient norms, reconstruction over alignment, at the encoder's last layer
    (VA-VAE)."""
    projector: Literal["mlp", "linear"] = "mlp"
    """From the tokenizer's features to the network's width: three linear layers with SiLU (GigaTok, SoftVQ), or one
    without bias (VA-VAE). It is trained with the tokenizer, saved in checkpoints, and no part of releases."""
    hidden: int = 1024
    """With projector=mlp, the width between (SoftVQ: 1024; GigaTok: four times that of the decoder)."""
    size: int = 224
    """Size to which pictures are resized for the network; 0: no resizing. On a grid, its positions must be as many as
    the tokenizer's."""
    resize: Literal["bicubic", "bilinear"] = "bicubic"
    """How they are resized (GigaTok: bicubic, VA-VAE: bilinear)."""
    normalise: Normalise = "auto"
    """The network's input. auto: the mean and deviation in its preprocessor_config.json; imagenet; clip; half: 0.5 each
    (SigLIP); none: as it is, in [-1, 1] (VA-VAE)."""

    def __post_init__(self) -> None:
        at = "loss.semantic."
        at_least(0, self, "weight", "size", prefix=at)
        at_least(1, self, "layer", "hidden", prefix=at)
        check(at + "scale", self.scale, self.scale > 0, "above 0")
        good = len(self.margins) == 2 and all(0 <= margin <= 2 for margin in self.margins)
        check(at + "margins", list(self.margins), good, "two numbers from 0 to 2")
        if self.weight and not self.network:
            raise ValueError(
                f"{at}network is not set, but {at}weight={self.weight} needs a frozen network: give a folder or a name "
                "on the Hub, such as facebook/dinov2-base"
            )
        if self.branch is not None and self.at != "codes":
            raise ValueError(f"{at}branch={self.branch} is not supported with {at}at={self.at}, only with codes")


@dataclass(frozen=True)
class LogitsConfig:
    """Squared difference of a frozen classifier's logits, of the reconstruction and of the original."""

    weight: float = 0.0
    """Weight of the term; 0: none. Published, in the place of LPIPS: 0.1 (MaskBit and TiTok's second stage, beside l2
    with weight 4 and 1 on pictures in [0, 1], which is loss.pixel_weight=1 and 0.25 on ours in [-1, 1])."""
    network: str = "resnet50"
    """The classifier: resnet50 (MaskBit), convnext_small (TiTok) or another of torchvision's by its name there, with
    ImageNet's first weights; or a folder, or a name on the Hub, that transformers' AutoModelForImageClassification
    loads."""
    weights: str | None = None
    """File with the weights of a torchvision network; null: torch hub's cache, or a download into it."""
    size: int = 224
    """Size to which pictures are resized for it, bilinear with antialiasing; 0: no resizing."""
    normalise: Normalise = "auto"
    """Its input, as loss.semantic.normalise; auto of torchvision's networks is imagenet."""

    def __post_init__(self) -> None:
        at_least(0, self, "weight", "size", prefix="loss.logits.")
        if self.weights is not None and "/" in self.network:
            raise ValueError(
                f"loss.logits.weights={self.weights} is for torchvision's networks, and loss.logits.network="
                f"{self.network} brings its own: remove it"
            )
