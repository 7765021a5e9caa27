"""Drawing codes by their bits: one step of a Llama for each code, in which a head fills in its bits, a few at a time.

Shapes: B samples, X rows (B, or with guidance 2B), N codes, L bits, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import draw_codes, guide

Head = Callable[[Tensor, Tensor], Tensor]
"""Logits_XL2 of outputs y_XD and of bits, where MASKED stands for a masked one."""
MASKED = 2
"""What stands for a masked bit."""


class CachedBits(CachedBody):
    """A stock Llama over codes with a key-value cache, and the head over each code's bits."""

    embedding_VD: Tensor

    def __init__(self, lm: Any, head: nn.Module, positions: int):
        """For sequences of up to `positions` tokens; the token of bit number l is 2l + its value."""
        super().__init__(lm, positions)
        self.register_buffer("embedding_VD", lm.embed_tokens.weight.detach())
        self.head: Head = head

    def read(self, bit_XnL: Tensor) -> Tensor:
        """What the Llama reads of codes, x_XnD: the sum of their bits' embeddings."""
        token_XnL = bit_XnL + 2 * torch.arange(bit_XnL.shape[-1], device=bit_XnL.device)
        flat_RD = F.embedding_bag(token_XnL.flatten(0, -2), self.embedding_VD, mode="sum")
        return flat_RD.unflatten(0, token_XnL.shape[:-1])

    def bits(
        self, y_XD: Tensor, uniform_BL: Tensor, drawing: Drawing, steps: Sequence[int], strength: float | None
    ) -> Tensor:
        """The bits of one code of each sample, bit_BL, drawn in `steps` of so many bits at the drawing's temperature.

        With a guidance strength y_XD has both halves, and the logits are guided.
        """
        y_XD = y_XD * self.norm_D
        bit_BL, open_BL = torch.full_like(uniform_BL, MASKED, dtype=torch.int64), uniform_BL >= 0
        for count in steps:
            if strength is None:
                logits_BL2 = self.head(y_XD, bit_BL)
            else:
                logits_BL2 = guide(self.head(y_XD, bit_BL.repeat(2, 1)), strength)
            drawn_BL = draw_codes(logits_BL2.flatten(0, 1), uniform_BL.flatten(), drawing).view_as(bit_BL)
            place_Bc = most_certain(logits_BL2, open_BL, count)
            bit_BL = bit_BL.scatter(1, place_Bc, drawn_BL.gather(1, place_Bc))
            open_BL = open_BL.scatter(1, place_Bc, False)
        return bit_BL


def most_certain(logits_XL2: Tensor, open_XL: Tensor, count: int) -> Tensor:
    """The places of the `count` most certain of the bits that are open, place_Xc; among equals the first.

    That doesn't depend on what is drawn: so the probability of a code is that of its bits in the one order that its
    own bits lead to.
    """
    certain_XL = (logits_XL2[..., 1] - logits_XL2[..., 0]).abs().masked_fill(~open_XL, -1.0)
    return certain_XL.argsort(dim=-1, descending=True, stable=True)[..., :count]


@torch.inference_mode()
def decode_bits(
    cached: CachedBits,
    token_B: Tensor,
    uniform_BNL: Tensor,
    drawing: Drawing,
    *,
    null: int,
    embedded: Callable[[Tensor], Tensor],
    given_BNL: Tensor | None = None,
) -> Tensor:
    """Draw the bits of all codes, bit_BNL int64; uniform_BNL in [0, 1) is all their randomness.

    As stage2_prior.generation.autoregressive.decode; given bits are -1 of codes that are drawn.
    """
    batch, positions, bits = uniform_BNL.shape
    steps = drawing.bit_steps or [1] * bits
    # Where to begin decides what is launched: the one wait for the device, once for a batch with given codes.
    begun = 0 if given_BNL is None else int((given_BNL[..., 0] >= 0).all(0).int().cumprod(0).sum())
    guided = drawing.guided_steps(positions)
    guided = 0 if guided <= begun else guided
    x_XTD = embedded(torch.cat([token_B, torch.full_like(token_B, null)]) if guided else token_B)
    bit_BNL = torch.zeros_like(uniform_BNL, dtype=torch.int64) if given_BNL is None else given_BNL.clone()
    if begun == positions:
        return bit_BNL
    if begun:
        given_BnD = cached.read(bit_BNL[:, :begun])
        x_XTD = torch.cat([x_XTD, given_BnD.repeat(len(x_XTD) // batch, 1, 1)], dim=1)
    cached.start(len(x_XTD))
    y_XD = cached.extend(x_XTD, 0, causal=True)[:, -1]
    for position in range(begun, positions):
        if position == guided:
            cached.keep(batch)
            y_XD = y_XD[:batch]
        strength = drawing.guidance_at(position, positions) if position < guided else None
        how = drawing.at(position, positions)
        drawn_BL = cached.bits(y_XD, uniform_BNL[:, position], how, steps, strength)
        if given_BNL is not None:
            drawn_BL = torch.where(given_BNL[:, position] >= 0, given_BNL[:, position], drawn_BL)
        bit_BNL[:, position] = drawn_BL
        if position + 1 < positions:
            x_BD = cached.read(drawn_BL)
            x_XD = x_BD.repeat(2, 1) if strength is not None else x_BD
            y_XD = cached.extend(x_XD[:, None], x_XTD.shape[1] + position - begun)[:, 0]
    return bit_BNL
