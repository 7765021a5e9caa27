"""Drawing codes from an autoregressive prior: one static key-value cache, both guidance halves in one batch.

Shapes: B sequences, N codes each, K codes, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import draw_codes, mixed
from stage2_prior.generation.products import Product

MOST_PROJECTED = 1 << 28
"""Bytes of a table of what the first layer's q, k and v make of each token, which is the same at every step."""


class CachedLlama(CachedBody):
    """A stock Llama's next-code logits, one token per call, over a static key-value cache.

    Positions count from 0 after `start`. Equal to the module's own logits up to rounding.
    """

    embedding_VD: Tensor

    def __init__(self, lm: Any, codebook_size: int, positions: int, compiled: bool = False):
        super().__init__(lm.model, positions, compiled)
        self.register_buffer("embedding_VD", lm.model.embed_tokens.weight.detach())
        self.head_KD = Product(lm.lm_head.weight.detach()[:codebook_size] * self.norm_D)
        self.projected_VE: Tensor | None = None
        width = len(self.layers[0].qkv_ED.weight)
        if len(self.embedding_VD) * width * self.embedding_VD.element_size() <= MOST_PROJECTED:
            self.projected_VE = self.first_projections(self.embedding_VD)

    def read(self, token_B: Tensor, position: int) -> Tensor:
        """The normed output y_BD at `token_B`, which stands at `position`; all before it were given already."""
        projected_BE = None if self.projected_VE is None else F.embedding(token_B, self.projected_VE)
        x_B1D = F.embedding(token_B, self.embedding_VD)[:, None]
        return self.hear(x_B1D, position, projected_RE=projected_BE)[:, 0]

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
    lead: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Draw whole grids, code_BN int64, for the class tokens; uniform_BN in [0, 1) is all their randomness.

    `null` is the token that guidance compares with. `given_BN` fixes the codes where it isn't negative (the rest is
    drawn after what stands before it). `lead` makes x_BTD of the tokens, all that is heard before the codes; without it
    that is their embedding. It and the first codes, as far as all are given, are heard at once.
    """
    batch, positions = uniform_BN.shape
    code_BN = torch.empty(batch, positions, dtype=torch.int64, device=token_B.device)
    begun = 0
    if given_BN is not None:
        begun = int((given_BN >= 0).all(0).int().cumprod(0).sum())
        code_BN[:, :begun] = given_BN[:, :begun]
    guided_positions = drawing.guided(positions)
    if guided_positions <= begun:
        guided_positions = 0
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided_positions else token_B
    x_BTD = lead(input_B) if lead else F.embedding(input_B, llama.embedding_VD)[:, None]
    before = x_BTD.shape[1] - 1
    if begun:
        given_BTD = F.embedding(code_BN[:, :begun], llama.embedding_VD)
        x_BTD = torch.cat([x_BTD, given_BTD.repeat(len(input_B) // batch, 1, 1)], dim=1)
    llama.start(len(input_B))
    for position in range(begun, positions):
        guided = position < guided_positions
        if not guided and len(input_B) > batch:
            input_B = input_B[:batch]
            llama.keep(batch)
        if position == begun:
            y_BD = llama.hear(x_BTD, 0, causal=True)[:, -1]
        else:
            y_BD = llama.read(input_B, before + position)
        if guided:
            y_BD = mixed(y_BD, drawing.scale(position, positions))
        logits_BK = llama.head_KD(y_BD).float()
        code_B = draw_codes(logits_BK, uniform_BN[:, position], drawing, drawing.heat(position, positions))
        if given_BN is not None:
            code_B = torch.where(given_BN[:, position] >= 0, given_BN[:, position], code_B)
        code_BN[:, position] = code_B
        input_B = code_B.repeat(2) if guided else code_B
    return code_BN
