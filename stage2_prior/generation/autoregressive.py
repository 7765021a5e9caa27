"""Drawing codes from an autoregressive prior: a static key-value cache, both guidance halves in one batch.

Shapes: B sequences, N codes each, K codes, V vocabulary, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import Product
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import draw_codes, guide

MOST_PROJECTED = 1 << 28
"""Bytes that the table of each token's first-layer q, k and v may take; the table saves that product in each step."""


class CachedLlama(CachedBody):
    """A stock Llama's next-code logits, one token per call, with a static key-value cache.

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

    def output(self, token_B: Tensor, position: int) -> Tensor:
        """The normed output y_BD for `token_B` at `position`; all positions before it are in the cache."""
        projected_BE = None if self.projected_VE is None else F.embedding(token_B, self.projected_VE)
        x_B1D = F.embedding(token_B, self.embedding_VD)[:, None]
        return self.extend(x_B1D, position, projected_RE=projected_BE)[:, 0]


@torch.inference_mode()
def decode(
    llama: CachedLlama,
    token_B: Tensor,
    uniform_BN: Tensor,
    drawing: Drawing,
    *,
    null: int,
    given_BN: Tensor | None = None,
    embedded: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Draw whole grids, code_BN int64, for the conditioning tokens; uniform_BN in [0, 1) is all their randomness.

    `null` is the token that guidance compares with. `given_BN` fixes the codes where it isn't negative. `embedded`
    gives the embeddings in front of the codes, x_BTD (null: the tokens' own). These and the first codes, as far as all
    are given, enter the cache in one step.
    """
    batch, positions = uniform_BN.shape
    code_BN = torch.empty(batch, positions, dtype=torch.int64, device=token_B.device)
    begun = 0
    if given_BN is not None:
        begun = int((given_BN >= 0).all(0).int().cumprod(0).sum())
        code_BN[:, :begun] = given_BN[:, :begun]
    guided_positions = drawing.guided_steps(positions)
    if guided_positions <= begun:
        guided_positions = 0
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided_positions else token_B
    x_BTD = embedded(input_B) if embedded else F.embedding(input_B, llama.embedding_VD)[:, None]
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
            y_BD = llama.extend(x_BTD, 0, causal=True)[:, -1]
        else:
            y_BD = llama.output(input_B, before + position)
        if guided:
            y_BD = guide(y_BD, drawing.guidance_at(position, positions))
        logits_BK = llama.head_KD(y_BD).float()
        temperature = drawing.temperature_at(position, positions)
        code_B = draw_codes(logits_BK, uniform_BN[:, position], drawing, temperature)
        if given_BN is not None:
            code_B = torch.where(given_BN[:, position] >= 0, given_BN[:, position], code_B)
        code_BN[:, position] = code_B
        input_B = code_B.repeat(2) if guided else code_B
    return code_BN
