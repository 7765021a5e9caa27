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


def draw_codes(logits_BK: Tensor, uniform_B: Tensor, drawing: Drawing, temperature: float | None = None) -> Tensor:
    """One code per row, idx_B int64, by inverting the distribution function at uniform_B in [0, 1).

    `temperature` is that of `drawing` where it is None. top_k comes first, then min_p, then top_p.
    One uniform number per draw, made beforehand, keeps a picture independent of those drawn beside it.
    """
    temperature = drawing.temperature if temperature is None else temperature
    if temperature == 0:
        return logits_BK.argmax(-1)
    if temperature != 1:
        logits_BK = logits_BK / temperature
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
