"""When the log says that a run goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

from launch.command.checks import check as _check


@dataclass(frozen=True)
class MonitorConfig:
    """When a run is said to go wrong. A line is what is logged every run.log_every steps."""

    window: int = 50
    """Lines whose median is a value's recent level, known after a fifth of them; 0: no monitor."""
    patience: int = 5
    """Lines in a row over which a state must last before it is named; a fall or a spike is named at once."""
    collapse: float = 0.3
    """Perplexity or number of codes under this share of the recent level: the codebook collapses."""
    least_use: float = 0.02
    """The same, lasting, under this share of the most that a rank's part of a batch could have."""
    won: float = 0.98
    """Accuracy from which on the discriminator has won."""
    lost: float = 0.02
    """Distance of the accuracy from 1/2, and of its logits for both sides, up to which the discriminator has lost."""
    spike: float = 10.0
    """A loss or a gradient's norm over so many times its recent level: the run diverges."""

    def __post_init__(self) -> None:
        at = "monitor."
        _check(at + "window", self.window, self.window == 0 or self.window >= 5, "5 or more, or to 0 for no monitor")
        _check(at + "patience", self.patience, self.patience >= 1, "1 or more")
        _check(at + "collapse", self.collapse, 0 <= self.collapse <= 0.5, "a share up to 0.5")
        _check(at + "least_use", self.least_use, 0 <= self.least_use <= 0.5, "a share up to 0.5")
        _check(at + "won", self.won, 0.5 < self.won <= 1, "a share above 0.5")
        _check(at + "lost", self.lost, 0 <= self.lost < 0.5, "a distance below 0.5")
        _check(at + "spike", self.spike, self.spike > 1, "above 1")
