"""Documents packed into rows of tokens: none attends to another, and positions restart at each.

On CPUs attention takes a mask; on GPUs in 16 bits the kernel for sequences of several lengths (a flash attention,
torch.nn.attention.varlen) skips what it masks.

Shapes: B rows, T tokens of a row, X documents, H heads (of queries, or of keys), d their width.
"""

import contextlib
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_tokenizer.layers.precision import HALF

varlen_attn: Any = None
with contextlib.suppress(ImportError):  # it came with torch 2.10
    from torch.nn.attention.varlen import varlen_attn


class Documents:
    """Where each document of some packed rows lies."""

    def __init__(self, number_BT: Tensor, bound_X: Tensor | None = None):
        """number_BT is each token's document, the same for neighbours of one only.

        bound_X are `bounds` of these rows, on their device: they let GPUs take the kernel for several lengths.
        """
        self.number_BT, self.bound_X = number_BT, bound_X

    @cached_property
    def at_BT(self) -> Tensor:  # noqa: N802
        """Each token's place in its document."""
        place_T = torch.arange(self.number_BT.shape[1], device=self.number_BT.device)
        return place_T - torch.where(_begins(self.number_BT), place_T, 0).cummax(1)[0]

    @cached_property
    def mask_B1TT(self) -> Tensor:  # noqa: N802
        """Whether a token attends to another: of its own document, and not behind it."""
        same_BTT = self.number_BT[:, :, None] == self.number_BT[:, None]
        return same_BTT.tril()[:, None]

    def attended(self, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, **how: Any) -> Tensor:
        """Causal attention within documents; `how` as of F.scaled_dot_product_attention."""
        if varlen_attn is None or self.bound_X is None or q_BHTd.dtype not in HALF or how["dropout_p"]:
            return F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=self.mask_B1TT, **how)
        rows, tokens = q_BHTd.shape[0], q_BHTd.shape[2]
        flat = [x_BHTd.transpose(1, 2).flatten(0, 1) for x_BHTd in (q_BHTd, k_BHTd, v_BHTd)]
        found_XHd = varlen_attn(
            *flat, self.bound_X, self.bound_X, tokens, tokens,
            scale=how["scale"], window_size=(-1, 0), enable_gqa=how["enable_gqa"],
        )  # fmt: skip
        return found_XHd.unflatten(0, (rows, tokens)).transpose(1, 2)


def bounds(number_BT: Tensor) -> Tensor:
    """Where documents begin in the rows laid end to end, and the end of all: bound_X int32. Waits for a GPU."""
    begin_X = _begins(number_BT).flatten().nonzero()[:, 0]
    return torch.cat([begin_X, begin_X.new_tensor([number_BT.numel()])]).int()


def _begins(number_BT: Tensor) -> Tensor:
    """Whether a token is its document's first in its row."""
    first_B1 = torch.ones_like(number_BT[:, :1], dtype=torch.bool)
    return torch.cat([first_B1, number_BT[:, 1:] != number_BT[:, :-1]], dim=1)
