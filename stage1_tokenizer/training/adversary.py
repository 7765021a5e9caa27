"""One discriminator's part of the step: its term at the reconstruction, and its own loss.

Legend: B batch, C channels, H W pixels.
"""

from torch import Tensor

from stage1_tokenizer.config.losses import AdversarialConfig
from stage1_tokenizer.discriminators.verdict import Verdict, verdict_of
from stage1_tokenizer.layers.convolution import LastLayer
from stage1_tokenizer.layers.precision import at_least_float32
from stage1_tokenizer.losses.adversarial import (
    LeCam,
    adaptive_weight,
    discriminator_loss,
    feature_distance,
    generator_loss,
    gradient_penalty,
    reduced,
)


class Adversary:
    """The settings and the running means of one discriminator; the network itself is passed to the step."""

    def __init__(self, config: AdversarialConfig, suffix: str = ""):
        """`suffix` follows the names of its metrics and of its files in checkpoints (LossConfig.adversaries)."""
        self.config = config
        self.suffix = suffix
        self.lecam = LeCam(config.lecam_decay)
        self.dial: Tensor | None = None

    def ramp(self, step: int) -> float | Tensor | None:
        """The factor in (0, 1] on the generator's term at this step; None before `start`.

        It is the one on the device, `dial`, where that is set.
        """
        return self.ramp_at(step) if self.dial is None or step < self.config.start else self.dial

    def ramp_at(self, step: int) -> float | None:
        """The factor as a number."""
        if step < self.config.start:
            return None
        return min(1.0, (step - self.config.start + 1) / max(self.config.ramp, 1))

    def weight(self, layer: LastLayer | None, features_BCHW: Tensor, grad_rec: Tensor, grad_adv: Tensor) -> Tensor:
        """The weight of the generator's loss before the ramp; arguments as `adaptive_weight` has them.

        `layer` is needed for adaptive weights alone.
        """
        if not self.config.adaptive or layer is None:
            return grad_rec.new_full((), self.config.weight)
        ratio = adaptive_weight(layer, features_BCHW, grad_rec, grad_adv)
        return self.config.weight * ratio.clamp(max=self.config.adaptive_limit)

    def penalised(self, step: int) -> bool:
        """Whether this step's loss has the gradient penalties."""
        return (step - self.config.start) % self.config.penalty_every == 0

    def generator_loss(self, fake: Verdict) -> Tensor:
        """The adversarial term, from what the discriminator says of x̂."""
        return reduced([generator_loss(self.config.loss, logits) for logits in fake.logits], self.config.reduction)

    def feature_distance(self, fake: Verdict, real: Verdict) -> Tensor:
        """The feature matching term."""
        return feature_distance(fake.features, real.features, self.config.reduction)

    def loss(
        self, of_x: Verdict | Tensor, of_x_hat: Verdict | Tensor, x_BCHW: Tensor, x_hat_BCHW: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss from what it says of x and x̂, with the graph of both; and what is logged of it.

        x must require a gradient in steps with a penalty on it. LeCam, penalties and what is logged see the logits of
        all parts as one.
        """
        config, of_x, of_x_hat = self.config, verdict_of(of_x), verdict_of(of_x_hat)
        pairs = zip(of_x.logits, of_x_hat.logits, strict=True)
        loss = reduced([discriminator_loss(config.loss, *pair) for pair in pairs], config.reduction)
        metrics = {"loss/discriminator": loss.detach()}
        real, fake = of_x.joined, of_x_hat.joined
        if config.lecam:
            lecam = self.lecam(real, fake)
            loss = loss + config.lecam * lecam
            metrics["loss/lecam"] = lecam.detach()
        penalties = {"": (config.penalty, real, x_BCHW), "_fake": (config.penalty_fake, fake, x_hat_BCHW)}
        for name, (gamma, logits, samples) in penalties.items():
            if gamma and self.penalised(step):
                penalty = gradient_penalty(at_least_float32(logits), samples)
                penalty = penalty / samples.shape[2] if config.per_frame else penalty
                loss = loss + config.penalty_every * gamma / 2 * penalty
                metrics[f"gan/penalty{name}"] = penalty.detach()
        real, fake = real.detach().float(), fake.detach().float()
        middle = 0.5 if config.loss == "least_squares" else 0.0  # between its targets
        right = ((real > middle).float().mean() + (fake < middle).float().mean()) / 2
        return loss, {**metrics, "gan/logits_real": real.mean(), "gan/logits_fake": fake.mean(), "gan/accuracy": right}

    def named(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Metrics with this discriminator's suffix."""
        return {name + self.suffix: value for name, value in metrics.items()}
