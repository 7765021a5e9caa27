"""Our own loop over the layers of a stock Llama, which computes what its `forward` computes.

transformers first makes a mask, for which it reads positions and padding on the host: the GPU waits in every step, and
orders other than row by row may lose flash attention. There is no padding here, and positions enter by the rotary
embedding alone, so no mask is needed. Layers are called as modules: sharding, activation checkpointing and compiled
blocks hook into that.

Shapes: B batch, T tokens, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stage1_tokenizer.layers.precision import at_least_float32
from stage2_prior.priors.documents import Documents
from stage2_prior.priors.fused import Attention


class KeyValues:
    """What layers kept of earlier tokens, as transformers' layers ask for it: keys and values, (B, H, T, d)."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key_BHTd: Tensor, value_BHTd: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Those of a layer's tokens so far, with these behind them."""
        if layer in self._kept:
            new = (key_BHTd, value_BHTd)
            key_BHTd, value_BHTd = (torch.cat(pair, dim=2) for pair in zip(self._kept[layer], new, strict=True))
        self._kept[layer] = key_BHTd, value_BHTd
        return key_BHTd, value_BHTd


def through_layers(
    llama: Any,
    x_BTD: Tensor,
    at_BT: Tensor | None = None,
    stretch_T: Tensor | None = None,
    ends: Sequence[int] = (),
    kept: Any = None,
    documents: Documents | None = None,
    mask_B1TT: Tensor | None = None,
) -> Tensor:
    """The normed output, y_BTD, of a stock LlamaModel over embedded tokens.

    at_BT are the tokens' places for the rotary embedding, by default 0, 1, …. Each token attends to itself and to those
    before it; where stretches of tokens come in parallel, to all of its own and earlier ones: stretch_T numbers each
    token's, and `ends` are the numbers of tokens up to the end of each. With `kept` x_BTD is one token of each
    sequence, which attends to those that `kept` has, and is kept too. `documents` are those that are packed into each
    row: places restart at each, and none attends to another. `mask_B1TT` says which tokens (of those in `kept` too, if
    there are any) each one attends to.
    """
    how: dict[str, Any] = {} if kept is None else {"past_key_values": kept}
    own = isinstance(llama.layers[0].self_attn, Attention)
    if documents is not None:
        at_BT = documents.at_BT
        how = {"documents": documents} if own else {"attention_mask": documents.mask_B1TT}
    if ends and own:
        how = {"ends": ends}
    elif stretch_T is not None:
        how = {"attention_mask": (stretch_T[:, None] >= stretch_T)[None, None]}
    if mask_B1TT is not None:
        how["attention_mask"] = mask_B1TT
    if at_BT is None:
        at_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
    # The table has the type of the tokens: at least float32 where our attention takes that.
    turn = llama.rotary_emb(at_least_float32(x_BTD[:1, :1]) if own else x_BTD, at_BT)
    for layer in llama.layers:
        x_BTD = layer(x_BTD, position_embeddings=turn, **how)
    y_BTD: Tensor = llama.norm(x_BTD)
    return y_BTD
