"""When the log warns that a run goes wrong."""

from dataclasses import dataclass

from launch.command.checks import at_least, check


@dataclass(frozen=True)
class MonitorConfig:
    """When the monitor warns. A line is what is logged every run.log_every steps."""

    window: int = 50
    """Lines whose median is a value's recent level, from a fifth of them on; 0: no monitor."""
    patience: int = 5
    """Consecutive lines for which a state must last before the monitor warns; it warns of a fall or a spike at once."""
    collapse: float = 0.3
    """The codebook collapses if perplexity or the number of codes falls below this share of the recent level."""
    least_use: float = 0.02
    """The codebook collapses if either stays below this share of the maximum for a rank's part of a batch."""
    won: float = 0.98
    """Accuracy from which the discriminator counts as having won."""
    lost: float = 0.02
    """The discriminator has lost if its accuracy is this close to 1/2, and its logits for both sides are this close."""
    spike: float = 10.0
    """The run diverges if a loss or a gradient's norm exceeds its recent level by this factor."""

    def __post_init__(self) -> None:
        at = "monitor."
        check(at + "window", self.window, self.window == 0 or self.window >= 5, "5 or more, or to 0 for no monitor")
        at_least(1, self, "patience", prefix=at)
        for name in ("collapse", "least_use"):
            check(at + name, getattr(self, name), 0 <= getattr(self, name) <= 0.5, "a share up to 0.5")
        check(at + "won", self.won, 0.5 < self.won <= 1, "a share above 0.5")
        check(at + "lost", self.lost, 0 <= self.lost < 0.5, "a distance below 0.5")
        check(at + "spike", self.spike, self.spike > 1, "above 1")
