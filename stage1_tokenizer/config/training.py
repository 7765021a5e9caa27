"""How a tokenizer is trained: every setting of stage one, checked where it is read."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import yaml

from data.config import DataConfig
from data.sounds.config import SoundConfig
from data.videos.config import VideoConfig
from launch.command.checks import at_least, check
from launch.command.values import settled, word
from launch.config import OptimizerConfig, RunConfig
from stage1_tokenizer.config.losses import AdversarialConfig as AdversarialConfig
from stage1_tokenizer.config.losses import LossConfig as LossConfig
from stage1_tokenizer.config.losses import PerceptualConfig as PerceptualConfig
from stage1_tokenizer.config.model import ModelConfig as ModelConfig
from stage1_tokenizer.config.monitor import MonitorConfig as MonitorConfig
from stage1_tokenizer.config.progressive import check_early
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
            check("optimizer.discriminator_learning_rate", rate, rate > 0, "above 0, or to null")


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
    with its discriminator if that fits loss.adversarial. Model settings that are left out are taken from it; those that
    are set must agree with it, except dropout and how the quantizer learns."""
    inflate: Literal["last", "central"] | None = None
    """Of a tokenizer of pictures (init), make one of videos: each of its kernels becomes the last slice in time of a
    causal one (last: model.video.causal=true is then the default), or the middle one (central, not causal). Without
    strides of time the new tokenizer gives, on every frame, what the picture's gives; with strides, on the frames that
    have codes. Set model.video beside it."""
    freeze: list[Literal["encoder", "quantizer", "decoder"]] = field(default_factory=list)
    """Parts of the tokenizer that aren't trained, including the convolution next to the quantizer and the codebook's
    statistics: [encoder, quantizer] fine-tunes only the decoder, so codes don't change."""
    activation_checkpointing: bool = False
    """Keep only the blocks' inputs for the backward pass and recompute the rest: less memory, a third more work."""
    compile: bool = False
    """Compile generator, discriminators and LPIPS with torch.compile: faster steps on GPUs after minutes of compiling.
    CPUs don't compile: it makes them no faster."""
    compile_fallback: bool = False
    """Where compiling fails, train without it instead of ending."""
    cuda_graph: bool = False
    """Replay whole steps as CUDA graphs: faster for small pictures, whose steps are thousands of short kernels. For one
    GPU, without compile, data.micro_batch and activation_checkpointing."""
    channels_last: bool = False
    """On GPUs, keep weights of 2-D convolutions, and so what they give, in channels-last layout (CPUs choose it
    themselves where it is faster)."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """When the log warns that the run goes wrong."""
    steps: int = 100_000
    """Number of training steps."""
    evaluate_every: int = 5000
    """Steps between two evaluations on data.held_out; the last step is always evaluated. 0: only the last step."""
    evaluate_samples: int | None = 1000
    """Held-out samples in an evaluation during training; null: all of them."""
    evaluate_features: Literal["none", "vgg16", "inception"] = "none"
    """Network on whose features distances between the sets of held-out pictures and of their reconstructions are also
    measured; see stage1_tokenizer.evaluate."""

    dry_run: bool = False
    """Print parameters, operations and memory for each strategy, and train nothing. Needs neither GPU nor data."""

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "evaluate_samples")
        at_least(0, self, "evaluate_every")
        if self.data.kind == "pictures":
            self._check_pictures()
        for name in ("logits", "semantic"):
            if self.data.kind != "pictures" and getattr(self.loss, name).weight:
                raise ValueError(f"loss.{name} is for pictures, not for {self.data.kind}: set loss.{name}.weight to 0")
        if self.data.kind == "sounds":
            self._check_sounds()
        if self.data.kind == "videos":
            self._check_videos()
        if self.data.kind == "texts":
            self._check_texts()
        self._check_method()

    def _check_texts(self) -> None:
        model, text = self.model, self.data.transform
        for name, value, needed in (
            ("model.spatial_dims", model.spatial_dims, 1),
            ("model.in_channels", model.in_channels, text.channels),
            ("loss.pixel_weight", self.loss.pixel_weight, 0),
            ("loss.perceptual.weight", self.loss.perceptual.weight, 0),
            ("loss.adversarial.weight", self.loss.adversarial.weight, 0),
        ):
            if value != needed:
                raise ValueError(
                    f"{name}={value} is not for texts, which are compared by their bytes: set it to {needed}"
                )
        if "cross_entropy" not in self.loss.terms:
            raise ValueError("loss.terms has no cross_entropy, which texts need: set loss.terms={cross_entropy: 1}")
        (length,), (stride,) = text.sizes, model.stride
        if length % stride:
            raise ValueError(
                f"data.transform.length={length} is not a multiple of {stride}, the bytes of a code: set it to "
                f"{length // stride * stride or stride}"
            )

    def _check_pictures(self) -> None:
        (size, _) = self.data.transform.sizes
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
                f"data.transform.size={size} differs from model.vit.size={self.model.vit.size}, which "
                f"model.vit.latent_tokens={self.model.latent_tokens} needs: set both to the same size"
            )
        quantizer = self.model.quantizer
        if quantizer.kind == "multiscale" and quantizer.scales[-1] != size // stride:
            raise ValueError(
                f"model.quantizer.scales={list(quantizer.scales)} must end with {size // stride}, the latent grid of "
                f"pictures of data.transform.size={size}: add it, or remove the larger ones"
            )
        for adversarial in self.loss.adversaries.values():
            adversarial.check_samples(self.model.in_channels, self.model.spatial_dims, size)
        self._check_semantic()
        check_early(self.data, self.model, self.loss, self.steps, self.cuda_graph)
        if self.model.in_channels != self.data.transform.channels:
            raise ValueError(
                f"model.in_channels={self.model.in_channels} differs from data.transform.channels="
                f"{self.data.transform.channels}: set both to the same number"
            )

    def _check_semantic(self) -> None:
        """Refuse an alignment that trains nothing, or that the networks have no place for."""
        semantic, at = self.loss.semantic, f"loss.semantic.at={self.loss.semantic.at}"
        if not semantic.weight:
            return
        trained = {"latents": {"encoder"}, "codes": {"encoder", "quantizer"}}
        if trained.get(semantic.at, {"decoder", "encoder"}) <= set(self.freeze):
            raise ValueError(f"{at} trains nothing of the tokenizer with freeze={list(self.freeze)}: set at=decoder")
        if semantic.adaptive and "encoder" in self.freeze:
            raise ValueError("loss.semantic.adaptive=true needs a trained encoder: remove it from freeze")
        depth = self.model.vit.decoder.depth if self.model.backbone == "vit" else semantic.layer
        if semantic.at == "decoder" and semantic.layer > depth:
            raise ValueError(
                f"loss.semantic.layer={semantic.layer} is beyond model.vit.decoder.depth={depth}: lower it"
            )
        if semantic.at == "decoder" and self.data.micro_batch is not None:
            raise ValueError(f"{at} is not supported with data.micro_batch: set activation_checkpointing instead")
        if semantic.branch is not None:
            quantizer = self.model.quantizer
            good = quantizer.kind == "product" and -quantizer.codebooks <= semantic.branch < quantizer.codebooks
            rule = "a codebook of model.quantizer.kind=product"
            check("loss.semantic.branch", semantic.branch, good, rule)

    def _check_sounds(self) -> None:
        clip = self.data.transform
        assert isinstance(clip, SoundConfig)
        if self.model.spatial_dims != 1:
            raise ValueError(f"model.spatial_dims={self.model.spatial_dims} is not for sounds: set it to 1")
        hop = self.model.stride[0] * math.lcm(*self.model.quantizer.strides)
        if clip.length % hop:
            raise ValueError(
                f"data.transform.length={clip.length} is not a multiple of {hop}, the samples of a code: set it to "
                f"{clip.length // hop * hop or hop}"
            )
        if self.model.in_channels != clip.channels:
            raise ValueError(
                f"model.in_channels={self.model.in_channels} differs from data.transform.channels={clip.channels}: "
                "set both to the same number"
            )
        if self.evaluate_features != "none":
            raise ValueError(f"evaluate_features={self.evaluate_features} is for pictures: set it to none")
        self.loss.check_sounds()
        for adversarial in self.loss.adversaries.values():
            adversarial.check_samples(self.model.in_channels, self.model.spatial_dims)
            bounded = self.model.backbone == "seanet" and self.model.seanet.tanh
            if adversarial.adaptive and (bounded or self.model.backbone in ("vocos", "seanet_vocos")):
                raise ValueError(
                    "loss.adversarial.adaptive=true needs a decoder that ends with a convolution, which that of "
                    f"model.backbone={self.model.backbone}{' with tanh' if bounded else ''} doesn't: set it to false, "
                    "and loss.balance=gradient for weights that don't depend on the terms' scales"
                )

    def _check_codes(self) -> None:
        place = self.data.codes
        if place is None:
            return
        if not {"encoder", "quantizer"} <= set(self.freeze):
            raise ValueError(
                f"data.codes={place} trains the decoder on codes that must stay the tokenizer's: set "
                "freeze=[encoder, quantizer]"
            )
        if self.init is None:
            raise ValueError(f"data.codes={place} needs the tokenizer whose codes they are: set init to its folder")

    def _check_videos(self) -> None:
        model, clip = self.model, self.data.transform
        assert isinstance(clip, VideoConfig)
        if model.spatial_dims != 3:
            raise ValueError(f"model.spatial_dims={model.spatial_dims} is not for videos: set it to 3")
        for axis, name in enumerate(("frames", "size")):
            value, step = clip.sizes[axis], model.stride[axis]
            if value != (good := model.fitted(axis, value)):
                raise ValueError(
                    f"data.transform.{name}={value} is not {'1 + ' * (good % step)}a multiple of {step}, the model's "
                    f"stride: set it to {good}"
                )
        if model.in_channels != clip.channels:
            raise ValueError(
                f"model.in_channels={model.in_channels} differs from data.transform.channels={clip.channels}: set both "
                "to the same number"
            )
        for adversarial in self.loss.adversaries.values():
            adversarial.check_samples(model.in_channels, model.spatial_dims, clip.size)
            odd = "haar" if model.video.haar > 1 else "layers"
            if adversarial.adaptive and (model.video.haar > 1 or model.video.layers == "cosmos"):
                raise ValueError(
                    f"loss.adversarial.adaptive=true needs a decoder that ends with one convolution, which it doesn't "
                    f"with model.video.{odd}={getattr(model.video, odd)}: set it to false"
                )

    def _check_method(self) -> None:
        self._check_codes()
        if set(self.freeze) == {"encoder", "quantizer", "decoder"}:
            raise ValueError(f"freeze={list(self.freeze)} leaves nothing to train: remove the part to train")
        if self.channels_last and self.model.spatial_dims != 2:
            raise ValueError(
                f"channels_last=true is not supported with model.spatial_dims={self.model.spatial_dims}: remove it"
            )
        beside = {"compile": self.compile, "activation_checkpointing": self.activation_checkpointing}
        beside["data.micro_batch"] = self.data.micro_batch is not None
        perturbs = self.model.quantizer.perturb.samples > 0 and self.data.codes is None
        beside["model.quantizer.perturb.samples"] = perturbs
        beside["loss.adversarial.augment"] = any(one.augment for one in self.loss.adversaries.values())
        for name in [name for name, there in beside.items() if there and self.cuda_graph]:
            raise ValueError(f"cuda_graph=true is not supported with {name}: set one of them only")
        for adversarial in self.loss.adversaries.values():
            if self.compile and (adversarial.penalty or adversarial.penalty_fake):
                raise ValueError(
                    f"compile=true is not supported with gradient penalties (penalty={adversarial.penalty}, "
                    f"penalty_fake={adversarial.penalty_fake} of a discriminator): set them to 0, or compile to false"
                )


def setting_of(name: str, words: Sequence[str]) -> str | None:
    """The value of `init` or `inflate` on a command line, or in the files that it names; the last one counts.

    They decide the defaults of the model, so they are needed before the command line can be read as a whole.
    """
    found: str | None = None
    pairs = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for key, value in itertools.pairwise(pairs):
        if key == f"--{name}":
            found = settled(name, word(value), str | None)
        elif key == "--config" and not value.startswith("{"):
            try:
                settings = yaml.safe_load(Path(value).expanduser().read_text())
            except (yaml.YAMLError, ValueError, OSError):
                continue  # reported where the file is read as a configuration
            if isinstance(settings, dict) and name in settings:
                found = settled(name, word(str(settings[name])), str | None)
    return found
