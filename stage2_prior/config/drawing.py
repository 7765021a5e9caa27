"""How codes are drawn from logits, for every kind of prior: temperature, cut-offs, guidance, and their schedules."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from launch.command.checks import at_least, check


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a code is drawn from the logits."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely code."""
    final_temperature: float | None = None
    """Temperature at the last position (or step), reached linearly from `temperature`; null: no change."""
    top_k: int = 0
    """Draw from the k most likely codes only; 0 for all."""
    top_p: float = 1.0
    """Draw from the fewest codes that together have this probability; 1 for all."""
    min_p: float = 0.0
    """Draw from codes at least this share as likely as the most likely one; 0 for all."""
    guidance: float = 1.0
    """Strength s of classifier-free guidance, logits = null + s (class - null); 1 is none."""
    guidance_schedule: Literal["constant", "linear", "cosine", "power-cosine"] = "constant"
    """How the strength grows from 1 to `guidance` over the positions (or steps); constant: `guidance` everywhere.
    power-cosine: 1 + (s - 1)(1 - cos(π (i/N)^p)) / 2 at position i of N, from 0, with p the guidance_power (RAR)."""
    guidance_power: float = 1.0
    """With guidance_schedule=power-cosine: p; the larger, the later guidance sets in. RAR-B: 2.75, guidance=16."""
    guidance_from: float = 0.0
    """Share of the positions (or steps) drawn before guidance begins."""
    guidance_until: float = 1.0
    """Share of the positions (or steps) after which guidance ends; the rest takes half the work."""
    steps: int = 12
    """Of a masked prior: steps in which all codes are filled in."""
    order: Literal["confidence", "halton"] = "confidence"
    """Of a masked prior: whether a step fills in the most certain codes, or codes far apart."""
    choice_temperature: float = 4.5
    """Of a masked prior with order=confidence: noise in the choice at the first step."""

    bit_steps: list[int] | None = None
    """Of an autoregressive prior with head=bits: how many bits of a code each step fills in, the most certain ones
    first; they add up to the code's bits (BAR: [2, 2, 5, 7] of 16). null: one a step, as held-out codes are rated."""

    def __post_init__(self) -> None:
        final = self.final_temperature
        for name, good, rule in (
            ("temperature", self.temperature >= 0, "0 (the most likely code) or more; 1 samples as trained"),
            ("final_temperature", final is None or final >= 0, "null (no change), or 0 or more"),
            ("top_k", self.top_k >= 0, "0 (all codes) or more"),
            ("top_p", 0 < self.top_p <= 1, "a number in (0, 1]; 1 keeps all codes"),
            ("min_p", 0 <= self.min_p <= 1, "a number in [0, 1]; 0 keeps all codes"),
            ("guidance", self.guidance >= 0, "0 (no class) or more; 1 is no guidance, 3 is usual"),
            ("guidance_until", 0 <= self.guidance_until <= 1, "a number in [0, 1]; 1 guides to the end"),
            (
                "guidance_from",
                0 <= self.guidance_from <= self.guidance_until,
                "a number in [0, guidance_until]; 0 guides from the start",
            ),
            ("guidance_power", self.guidance_power > 0, "more than 0; RAR-B has 2.75, RAR-XXL 1.2"),
            ("choice_temperature", self.choice_temperature >= 0, "0 (no noise) or more"),
        ):
            check(name, getattr(self, name), good, rule)
        if self.guidance_power != 1 and self.guidance_schedule != "power-cosine":
            raise ValueError(
                f"guidance_power={self.guidance_power} needs guidance_schedule=power-cosine, not "
                f"{self.guidance_schedule}: set that, or leave guidance_power out"
            )
        at_least(1, self, "steps")
        if self.bit_steps is not None and not (self.bit_steps and min(self.bit_steps) >= 1):
            raise ValueError(
                f"bit_steps={self.bit_steps} must be numbers from 1 on: set it to [2, 2, 5, 7], for example"
            )

    def guidance_at(self, position: int, positions: int) -> float:
        """Guidance strength at a position in [0, positions); 1, no guidance, outside guidance_from … guidance_until.

        (Kynkäänniemi et al. 2024 guide in an interval only.)
        """
        if not self.guidance_from * positions <= position < self.guidance_until * positions:
            return 1.0
        if self.guidance_schedule == "constant":
            return self.guidance
        done = (position + 1) / positions
        if self.guidance_schedule == "power-cosine":
            done = (position / positions) ** self.guidance_power
        if self.guidance_schedule in ("cosine", "power-cosine"):
            done = (1 - math.cos(math.pi * done)) / 2
        return 1 + (self.guidance - 1) * done

    def guided_steps(self, positions: int) -> int:
        """How many of the first positions (or steps) need the null half: all up to the last guided one."""
        return max((i + 1 for i in range(positions) if self.guidance_at(i, positions) != 1), default=0)

    def at(self, position: int, positions: int) -> Self:
        """The drawing at a position in [0, positions): its temperature is the same everywhere."""
        return replace(self, temperature=self.temperature_at(position, positions), final_temperature=None)

    def temperature_at(self, position: int, positions: int) -> float:
        """The temperature at a position in [0, positions)."""
        if self.final_temperature is None:
            return self.temperature
        return self.temperature + (self.final_temperature - self.temperature) * position / max(1, positions - 1)
