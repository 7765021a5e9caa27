"""How a tokenizer is trained: every setting of stage one, checked where it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from data.config import DataConfig
from launch.command.checks import check as _check
from launch.config import OptimizerConfig as OptimizerConfig
from launch.config import RunConfig
from stage1_tokenizer.config.losses import AdversarialConfig as AdversarialConfig
from stage1_tokenizer.config.losses import LossConfig as LossConfig
from stage1_tokenizer.config.losses import PerceptualConfig as PerceptualConfig
from stage1_tokenizer.config.model import ModelConfig as ModelConfig
from stage1_tokenizer.config.monitor import MonitorConfig as MonitorConfig
from stage1_tokenizer.config.quantizer import QuantizerConfig as QuantizerConfig


@dataclass(frozen=True)
class TokenizerOptimizerConfig(OptimizerConfig):
    """AdamW for the tokenizer and for each discriminator, with warm-up, decay, clipping and averaged weights."""

    RENAMED: ClassVar[dict[str, str]] = {"betas": "beta1,beta2"}

    discriminator_learning_rate: float | None = None
    """Peak learning rate of the discriminators; null: the tokenizer's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.discriminator_learning_rate
        if rate is not None:
            _check("optimizer.discriminator_learning_rate", rate, rate > 0, "above 0, or to null")


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
    optimizer: TokenizerOptimizerConfig = field(default_factory=TokenizerOptimizerConfig)
    """How it is minimised."""
    init: str | None = None
    """Folder of a released or converted tokenizer (or of a run) to fine-tune: a new run begins with its weights, and
    with its discriminator where it has one that fits loss.adversarial. Its model's settings needn't be given; those
    that are must agree with it, but for dropout and how the quantizer learns."""
    freeze: list[Literal["encoder", "quantizer", "decoder"]] = field(default_factory=list)
    """Parts of the tokenizer that stay as they are, with the convolution beside the quantizer and the codebook's
    statistics: [encoder, quantizer] fine-tunes the decoder alone, and codes stay what they were."""
    activation_checkpointing: bool = False
    """Keep only inputs of blocks for the backward pass and compute the rest again: less memory, a third more work."""
    compile: bool = False
    """Compile encoder, decoder and discriminator with torch.compile: faster steps on GPUs after minutes of compiling.
    On CPUs it needs a C++ compiler."""
    channels_last: bool = False
    """On GPUs, keep weights of 2-D convolutions, and so what they give, in channels-last layout (CPUs choose it
    themselves where it is faster)."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """When the log says that the run goes wrong."""
    steps: int = 100_000
    """Number of training steps."""
    evaluate_every: int = 5000
    """Steps between two evaluations on data.held_out; the last step is always evaluated; 0: only the last."""
    evaluate_samples: int | None = 1000
    """Held-out pictures in an evaluation during training; null: all of them."""
    evaluate_features: Literal["none", "vgg16", "inception"] = "none"
    """Also measure distances between held-out pictures and their reconstructions as sets, on this network's features:
    see stage1_tokenizer.evaluate."""

    def __post_init__(self) -> None:
        _check("steps", self.steps, self.steps >= 1, "1 or more")
        _check("evaluate_every", self.evaluate_every, self.evaluate_every >= 0, "0 (only the last step) or more")
        samples = self.evaluate_samples
        if samples is not None:
            _check("evaluate_samples", samples, samples >= 1, "1 or more, or to null")
        size = self.data.transform.size
        stride = next((step for step in self.model.stride if size % step), self.model.stride[0])
        if size % stride:
            source = f"the stride of the {len(self.model.channel_multipliers)} levels of model.channel_multipliers"
            source = "model.vit.patch" if self.model.backbone == "vit" else source
            raise ValueError(
                f"data.transform.size={size} is not a multiple of {stride}, {source}: "
                f"set it to {size // stride * stride or stride}"
            )
        if self.model.latent_tokens and size != self.model.vit.size:
            raise ValueError(
                f"data.transform.size={size} differs from model.vit.size={self.model.vit.size}, the only one that "
                f"model.vit.latent_tokens={self.model.latent_tokens} are for: set them alike"
            )
        self._check_method()
        quantizer = self.model.quantizer
        if quantizer.kind == "multiscale" and quantizer.scales[-1] != size // stride:
            raise ValueError(
                f"model.quantizer.scales={list(quantizer.scales)} must end with {size // stride}, the latent grid of "
                f"pictures of data.transform.size={size}: add it, or leave off what is larger"
            )
        for adversarial in self.loss.adversaries.values():
            adversarial.check_pictures(self.model.in_channels, self.model.spatial_dims, size)
        if self.model.in_channels != self.data.transform.channels:
            raise ValueError(
                f"model.in_channels={self.model.in_channels} differs from data.transform.channels="
                f"{self.data.transform.channels}: set them alike"
            )

    def _check_method(self) -> None:
        if set(self.freeze) == {"encoder", "quantizer", "decoder"}:
            raise ValueError(f"freeze={list(self.freeze)} leaves nothing to train: leave off the part that shall learn")
        if self.channels_last and self.model.spatial_dims != 2:
            raise ValueError(
                f"channels_last=true is not for model.spatial_dims={self.model.spatial_dims}: leave it out"
            )
        for adversarial in self.loss.adversaries.values():
            if self.compile and (adversarial.penalty or adversarial.penalty_fake):
                raise ValueError(
                    f"compile=true can't differentiate the gradients of loss.adversarial.penalty={adversarial.penalty}"
                    f", penalty_fake={adversarial.penalty_fake}: set them to 0, or compile to false"
                )
