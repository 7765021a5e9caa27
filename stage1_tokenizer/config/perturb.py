"""Settings of perturbed codes."""

from dataclasses import dataclass

from launch.command.checks import at_least, check


@dataclass(frozen=True)
class PerturbConfig:
    """Codes replaced by near ones in training, so that the decoder learns to bear a prior's errors (RobusTok).

    (Qiu et al. 2025, Robust latent matters; its values are the defaults.) Both the share and the number of near codes
    are multiplied by a strength, which is 1 at first and falls linearly to `final`.
    """

    samples: float = 0.0
    """Share of the training samples that are decoded from perturbed codes: 0.1 in RobusTok; 0: none."""
    share: float = 1.0
    """Share of a perturbed sample's codes that are replaced, at strength 1."""
    nearest: int = 100
    """A replaced code becomes one of so many nearest codes, itself among them, at strength 1; all are equally likely.
    Nearest by the vectors that the search compares; with fsq, lfq and bsq, by the fewest changed levels or bits."""
    final: float = 0.5
    """The last strength."""
    anneal_from: float = 0.2
    """Share of the training steps after which the strength begins to fall."""
    anneal_until: float = 0.6
    """Share of the training steps after which it is `final`."""

    def __post_init__(self) -> None:
        at = "model.quantizer.perturb."
        at_least(1, self, "nearest", prefix=at)
        for name in ("samples", "share", "final", "anneal_from", "anneal_until"):
            check(at + name, getattr(self, name), 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        rule = f"anneal_from={self.anneal_from:g} or more"
        check(at + "anneal_until", self.anneal_until, self.anneal_from <= self.anneal_until, rule)

    def strength(self, done: float) -> float:
        """What multiplies `share` and `nearest` when this share of the training steps is done."""
        if done <= self.anneal_from:
            return 1.0
        if done >= self.anneal_until:
            return self.final
        return 1 + (self.final - 1) * (done - self.anneal_from) / (self.anneal_until - self.anneal_from)
