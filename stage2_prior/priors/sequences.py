"""Rows of tokens of different lengths, read at once and continued one token at a time by a stock causal model.

Shorter rows are padded at their beginning; nothing attends to padding, and places count from each row's first token.

Shapes: B rows, T tokens of the longest, D width, V vocabulary, H heads, d their width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage2_prior.priors.llama import through_layers


class Room:
    """Keys and values (B, H, T, d) of the tokens so far, in memory for all that may come."""

    def __init__(self, tokens: int):
        """`tokens` is the most of a row."""
        self.tokens, self.filled = tokens, 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key_BHTd: Tensor, value_BHTd: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Those of a layer's tokens so far, with these behind them; as transformers' layers ask for it."""
        if layer not in self._kept:
            shape = (*key_BHTd.shape[:2], self.tokens, key_BHTd.shape[3])
            self._kept[layer] = key_BHTd.new_empty(shape), value_BHTd.new_empty(shape)
        end = self.filled + key_BHTd.shape[2]
        for kept_BHTd, x_BHTd in zip(self._kept[layer], (key_BHTd, value_BHTd), strict=True):
            kept_BHTd[:, :, self.filled : end] = x_BHTd
        key_BHTd, value_BHTd = (kept_BHTd[:, :, :end] for kept_BHTd in self._kept[layer])
        return key_BHTd, value_BHTd

    def keep(self, rows: int) -> None:
        """Continue with the first rows only."""
        self._kept = {layer: (key[:rows], value[:rows]) for layer, (key, value) in self._kept.items()}


class Sequences:
    """Rows that are continued."""

    def __init__(self, lm: Any, prompts: Sequence[Sequence[int]], more: int):
        """Reads the prompts, none of which is empty; up to `more` tokens follow."""
        self.lm, longest = lm, max(map(len, prompts))
        device = lm.model.embed_tokens.weight.device
        token_BT = torch.tensor([[0] * (longest - len(one)) + list(one) for one in prompts], device=device)
        self.last_B = torch.tensor([len(one) - 1 for one in prompts], device=device)
        """The place of each row's last token."""
        place_T = torch.arange(longest, device=device)
        self.there_BT = place_T >= longest - 1 - self.last_B[:, None]
        self.room = Room(longest + more)
        at_BT = (place_T - (longest - 1) + self.last_B[:, None]).clamp(min=0)
        mask_B1TT = None
        if min(map(len, prompts)) < longest:
            # What is padding attends to itself, as no row of a softmax may be empty.
            mask_TT = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
            own_TT = torch.eye(longest, dtype=torch.bool, device=device)
            mask_B1TT = (mask_TT & self.there_BT[:, None] | own_TT)[:, None]
        else:
            self.there_BT = self.there_BT[:, :0]
        self.y_BD = self._read(token_BT, at_BT, mask_B1TT)
        """The normed output of each row's last token."""

    def _read(self, token_BT: Tensor, at_BT: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        x_BTD = self.lm.model.embed_tokens(token_BT)
        y_BTD = through_layers(self.lm.model, x_BTD, at_BT, kept=self.room, mask_B1TT=mask_B1TT)
        self.room.filled += token_BT.shape[1]
        return y_BTD[:, -1]

    def add(self, token_B: Tensor) -> None:
        """Continue each row by a token."""
        self.last_B = self.last_B + 1
        mask_B1TT = None
        if self.there_BT.shape[1]:
            self.there_BT = F.pad(self.there_BT, (0, 1), value=True)
            mask_B1TT = self.there_BT[:, None, None]
        self.y_BD = self._read(token_B[:, None], self.last_B[:, None], mask_B1TT)

    def keep(self, rows: int) -> None:
        """Continue with the first rows only."""
        self.last_B, self.there_BT, self.y_BD = self.last_B[:rows], self.there_BT[:rows], self.y_BD[:rows]
        self.room.keep(rows)

    def logits(self, y_BD: Tensor, first: int, stop: int) -> Tensor:
        """Logits of the ids from `first` on, before `stop`, of the next tokens; at least float32."""
        head = self.lm.lm_head
        bias = None if head.bias is None else head.bias[first:stop]
        return F.linear(y_BD, head.weight[first:stop], bias).float()
