"""Drawing codes from an autoregressive prior: one static key-value cache, both guidance halves in one batch.

Shapes: B sequences, N codes each, K codes, V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage2_prior.cached import CachedBody
from stage2_prior.drawing import Drawing, draw_codes, mixed
from stage2_prior.products import Product


class CachedLlama(CachedBody):
    """A stock Llama's next-code logits, one token per call, over a static key-value cache.

    Positions count from 0 after `start`. Equal to the module's own logits up to rounding.
    """

    def __init__(self, lm: Any, codebook_size: int, positions: int):
        super().__init__(lm.model, positions)
        self.embedding_VD = lm.model.embed_tokens.weight.detach()
        self.head_KD = Product(lm.lm_head.weight.detach()[:codebook_size] * self.norm_D)

    def read(self, token_B: Tensor, position: int) -> Tensor:
        """The normed output y_BD at `token_B`, which stands at `position`; all before it were given already."""
        return self.hear(F.embedding(token_B, self.embedding_VD)[:, None], position)[:, 0]

    def step(self, token_B: Tensor, position: int) -> Tensor:
        """Logits_BK of the code after `token_B`."""
        return self.head_KD(self.read(token_B, position))


@torch.inference_mode()
def decode(
    llama: CachedLlama,
    token_B: Tensor,
    uniform_BN: Tensor,
    drawing: Drawing,
    *,
    null: int,
    given_BN: Tensor | None = None,
) -> Tensor:
    """Draw whole grids, code_BN int64, for the class tokens; uniform_BN in [0, 1) is all their randomness.

    `null` is the token that guidance compares with. `given_BN` fixes the codes where it isn't negative (the rest is
    drawn after what stands before it).
    """
    batch, positions = uniform_BN.shape
    guided_positions = drawing.guided(positions)
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided_positions else token_B
    llama.start(len(input_B))
    llama.head_KD.prepare(batch)
    code_BN = torch.empty(batch, positions, dtype=torch.int64, device=token_B.device)
    for position in range(positions):
        guided = position < guided_positions
        if not guided and len(input_B) > batch:
            input_B = input_B[:batch]
            llama.keep(batch)
        y_BD = llama.read(input_B, position)
        if guided:
            y_BD = mixed(y_BD, drawing.scale(position, positions))
        logits_BK = llama.head_KD(y_BD).float()
        code_B = draw_codes(logits_BK, uniform_BN[:, position], drawing, drawing.heat(position, positions))
        if given_BN is not None:
            code_B = torch.where(given_BN[:, position] >= 0, given_BN[:, position], code_B)
        code_BN[:, position] = code_B
        input_B = code_B.repeat(2) if guided else code_B
    return code_BN
