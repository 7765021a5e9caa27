"""How codes are drawn from logits: temperature, cut-offs, guidance, and their schedules; for every kind of prior.

Shapes: B batch, N codes of a picture, K codes.
"""

import torch
from torch import Tensor

from stage2_prior.config.drawing import Drawing


def guide(both_XD: Tensor, strength: float) -> Tensor:
    """Classifier-free guidance, null + s (conditional - null), of logits or of what they are linear in.

    The first half of the rows is conditional, the second null. (Ho and Salimans 2022, eq. 6)
    """
    conditional, null = both_XD.chunk(2)
    return torch.lerp(null, conditional, strength)


def guide_at(both_XD: Tensor, strength_1: Tensor) -> Tensor:
    """As `guide`, where the strength is a float32 tensor (1,) on the device."""
    conditional, null = both_XD.float().chunk(2)  # as torch computes it for a number, whatever the type
    return torch.lerp(null, conditional, strength_1).to(both_XD.dtype)


def draw_codes(logits_BK: Tensor, uniform_B: Tensor, drawing: Drawing, temperature: float | None = None) -> Tensor:
    """One code per row, idx_B int64, by inverting the distribution function at uniform_B in [0, 1).

    `temperature` is that of `drawing` where it is None. top_k comes first, then min_p, then top_p.
    One uniform number per draw, made beforehand, keeps a picture independent of those drawn beside it.
    """
    temperature = drawing.temperature if temperature is None else temperature
    if temperature == 0:
        return logits_BK.argmax(-1)
    return _drawn(logits_BK if temperature == 1 else logits_BK / temperature, uniform_B, drawing)


def draw_codes_at(logits_BK: Tensor, uniform_B: Tensor, drawing: Drawing, temperature_1: Tensor) -> Tensor:
    """As `draw_codes`, where the temperature is a tensor (1,) on the device: of a step that serves many positions.

    Nothing of it depends on numbers of `drawing` that are not in `cut_offs`.
    """
    heat = cut_offs(drawing)[0]
    if heat == "zero":
        return logits_BK.argmax(-1)
    if heat == "one":
        return _drawn(logits_BK, uniform_B, drawing)
    if heat == "positive":
        return _drawn(logits_BK / temperature_1, uniform_B, drawing)
    cold_1 = temperature_1 == 0
    drawn_B = _drawn(logits_BK / torch.where(cold_1, 1, temperature_1), uniform_B, drawing)
    return torch.where(cold_1, logits_BK.argmax(-1), drawn_B)


def cut_offs(drawing: Drawing) -> tuple[str, int, float, float]:
    """What decides which operations draw a code: what is known of all temperatures, top_k, top_p and min_p."""
    ends = {drawing.temperature_at(0, 2), drawing.temperature_at(1, 2)}
    heat = "zero" if ends == {0} else "one" if ends == {1} else "any" if 0 in ends else "positive"
    return heat, drawing.top_k, drawing.top_p, drawing.min_p


def _drawn(logits_BK: Tensor, uniform_B: Tensor, drawing: Drawing) -> Tensor:
    """The codes at temperature 1."""
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
    if drawing.top_p < 1:  # sorted here: keep codes until those before them reach top_p
        kept_B = (total_BK - share_BK < drawing.top_p * last_B1).sum(-1, keepdim=True)
        last_B1 = total_BK.gather(1, kept_B - 1)
    place_B1 = torch.searchsorted(total_BK, uniform_B[:, None] * last_B1, right=True)
    place_B1 = place_B1.clamp_(max=logits_BK.shape[-1] - 1)
    return (place_B1 if kept_BK is None else kept_BK.gather(1, place_B1))[:, 0]
