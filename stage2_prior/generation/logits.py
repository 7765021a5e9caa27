"""How codes are drawn from logits: temperature, cut-offs, guidance, and their schedules; for every kind of prior.

Shapes: B batch, N codes of a picture, K codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stage2_prior.config.drawing import Drawing


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
