"""How codes are drawn from logits: temperature, cut-offs, guidance, and their schedules; for every kind of prior.

Shapes: B batch, N codes of a picture, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a code is drawn from the logits."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely code."""
    final_temperature: float | None = None
    """Temperature at the last position (or step), reached from `temperature` in a straight line; null: no change."""
    top_k: int = 0
    """Draw from the k most likely codes only; 0 for all."""
    top_p: float = 1.0
    """Draw from the fewest codes that together have this probability; 1 for all."""
    min_p: float = 0.0
    """Draw from the codes that are at least this share as likely as the most likely one; 0 for all."""
    guidance: float = 1.0
    """Scale s of classifier-free guidance, logits = null + s (class - null); 1 is none."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the scale goes from 1 to `guidance` over the positions (or steps); constant is `guidance` everywhere."""
    guidance_from: float = 0.0
    """Share of the positions (or steps) that are drawn before guidance begins."""
    guidance_until: float = 1.0
    """Share of the positions (or steps) after which guidance ends, which saves half of the work from there on."""
    steps: int = 12
    """Of a masked prior: steps in which all codes are filled in."""
    order: Literal["confidence", "halton"] = "confidence"
    """Of a masked prior: which codes a step fills in, the most certain ones or those far apart."""
    choice_temperature: float = 4.5
    """Of a masked prior with order=confidence: how much chance is in the choice at first."""

    def __post_init__(self) -> None:
        rules = (
            ("temperature", self.temperature >= 0, "be 0 (most likely code) or more: 1 samples as trained"),
            (
                "final_temperature",
                self.final_temperature is None or self.final_temperature >= 0,
                "be null (as temperature), or 0 or more",
            ),
            ("min_p", 0 <= self.min_p <= 1, "lie in [0, 1]: 0 keeps all codes"),
            ("guidance_until", 0 <= self.guidance_until <= 1, "lie in [0, 1]: 1 guides to the end"),
            (
                "guidance_from",
                0 <= self.guidance_from <= self.guidance_until,
                "lie in [0, guidance_until]: 0 guides from the start",
            ),
            ("top_k", self.top_k >= 0, "be 0 (all codes) or more"),
            ("top_p", 0 < self.top_p <= 1, "lie in (0, 1]: 1 keeps all codes"),
            ("steps", self.steps >= 1, "be 1 or more"),
            ("choice_temperature", self.choice_temperature >= 0, "be 0 (no chance) or more"),
            ("guidance", self.guidance >= 0, "be 0 (no class) or more: 1 is no guidance, 3 is usual"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)} must {rule}")

    def scale(self, position: int, positions: int) -> float:
        """The guidance scale at a position in [0, positions); 1, none, outside guidance_from … guidance_until.

        (Kynkäänniemi et al. 2024 guide in an interval only)
        """
        if not self.guidance_from * positions <= position < self.guidance_until * positions:
            return 1.0
        done = (position + 1) / positions
        if self.guidance_schedule == "constant":
            return self.guidance
        if self.guidance_schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return 1 + (self.guidance - 1) * done

    def guided(self, positions: int) -> int:
        """How many of the first positions (or steps) need the null half: all up to the last that is guided."""
        return max((i + 1 for i in range(positions) if self.scale(i, positions) != 1), default=0)

    def heat(self, position: int, positions: int) -> float:
        """The temperature at a position in [0, positions)."""
        if self.final_temperature is None:
            return self.temperature
        return self.temperature + (self.final_temperature - self.temperature) * position / max(1, positions - 1)


def guided(
    logits: Callable[[Tensor, Tensor], Tensor], token_B: Tensor, code_BN: Tensor, null: int, scale: float | None
) -> Tensor:
    """logits(token_B, code_BN), guided: both halves in one batch; scale None is no guidance."""
    if scale is None:
        return logits(token_B, code_BN)
    return mixed(logits(torch.cat([token_B, torch.full_like(token_B, null)]), code_BN.repeat(2, 1)), scale)


def mixed(both_XD: Tensor, scale: float) -> Tensor:
    """null + s (class - null) of the class half above the null half: of logits, or of what they are linear in."""
    class_half, null_half = both_XD.chunk(2)
    return torch.lerp(null_half, class_half, scale)


def draw_codes(logits_BK: Tensor, uniform_B: Tensor, drawing: Drawing, heat: float | None = None) -> Tensor:
    """One code per row, idx_B int64, by inverting the distribution function at uniform_B in [0, 1).

    `heat` is the temperature, `drawing.temperature` where it is None. Of the codes, top_k keeps some, of these min_p,
    of these top_p.
    One number per draw, made beforehand, keeps a picture's randomness its own, whatever is drawn beside it.
    """
    heat = drawing.temperature if heat is None else heat
    if heat == 0:
        return logits_BK.argmax(-1)
    if heat != 1:
        logits_BK = logits_BK / heat
    kept_BK: Tensor | None = None
    if 0 < drawing.top_k < logits_BK.shape[-1]:
        logits_BK, kept_BK = logits_BK.topk(drawing.top_k, dim=-1)
    elif drawing.top_p < 1:
        logits_BK, kept_BK = logits_BK.sort(dim=-1, descending=True)
    share_BK = logits_BK.softmax(-1)
    if drawing.min_p > 0:
        share_BK = share_BK.masked_fill(share_BK < drawing.min_p * share_BK.amax(-1, keepdim=True), 0)
    total_BK = share_BK.cumsum(-1)
    last_B1 = total_BK[:, -1:]
    if drawing.top_p < 1:  # sorted here: keep codes until the ones before reach top_p
        kept_B = (total_BK - share_BK < drawing.top_p * last_B1).sum(-1, keepdim=True)
        last_B1 = total_BK.gather(1, kept_B - 1)
    place_B1 = torch.searchsorted(total_BK, uniform_B[:, None] * last_B1, right=True)
    place_B1 = place_B1.clamp_(max=logits_BK.shape[-1] - 1)
    return (place_B1 if kept_BK is None else kept_BK.gather(1, place_B1))[:, 0]
