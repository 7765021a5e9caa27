"""Settings of a discriminator beside its network: its optimizer, and the augmentation of what it sees."""

from dataclasses import dataclass
from typing import Any

from launch.command.checks import check


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
class AugmentConfig:
    """DiffAugment (Zhao et al. 2020), as StyleGAN-T and later discriminators on frozen features have it."""

    translate: float = 0.0
    """Shift by up to this share of each side, filled with zeros (published: 0.125); 0: none."""
    colour: bool = False
    """Change brightness by up to 0.5, saturation by up to 2 times and contrast by 0.5 to 1.5 times."""
    cutout: float = 0.0
    """Set a square of this share of each side to zero (published: 0.2); 0: none."""

    def __post_init__(self) -> None:
        for name in ("translate", "cutout"):
            value = getattr(self, name)
            check(f"loss.adversarial.augment.{name}", value, 0 <= value <= 1, "a share from 0 to 1")

    def __bool__(self) -> bool:
        return bool(self.translate or self.colour or self.cutout)
