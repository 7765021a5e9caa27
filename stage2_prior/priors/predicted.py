"""What a prior predicts of every code, from which logits, losses and figures are made.

Shapes: B batch, N codes of a picture, P places of G codes each, K codes, D width, R rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stage2_prior.priors.losses import (
    Heads,
    code_losses,
    code_losses_in_chunks,
    figures,
    figures_in_chunks,
    too_many,
)


class Head(nn.Linear):
    """A stock head that lends its weights within its forward, where a strategy that shards them has gathered them."""

    @classmethod
    def of(cls, layer: nn.Module | None) -> None:
        """Make a stock head one of these."""
        if type(layer) is nn.Linear:
            layer.__class__ = cls

    def forward(self, y: Tensor, within: Callable[[Tensor, Tensor, Tensor | None], Any] | None = None) -> Any:
        """The product with y, or what `within` makes of y, the weight and the bias."""
        return super().forward(y) if within is None else within(y, self.weight, self.bias)


@dataclass
class PredictedLogits:
    """Logits that a prior has made, logits_BNK float32."""

    logits_BNK: Tensor

    def logits(self) -> Tensor:
        """These."""
        return self.logits_BNK

    def losses(self, code_BN: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
        """The training loss of each code, loss_BN, and its -ln p in nats, nats_BN: `code_losses`."""
        return code_losses(self.logits_BNK, code_BN, smoothing, z_weight)

    def figures(self, code_BN: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code in nats, and whether it is the likeliest one: `losses.figures`."""
        return figures(self.logits_BNK, code_BN)


@dataclass
class Predicted:
    """A transformer's outputs and the stock head over them, so that not all logits need exist at once.

    Of priors with several codebooks (G > 1) N codes are P·G, and everything has their shape: logits_BPGK, loss_BPG.
    """

    y_BND: Tensor
    """The normed outputs, or y_BPGD."""
    head: Head
    """The first rows of its weight are the codes'; those of several codebooks follow each other."""
    codes: int
    """K."""
    books: int = 1
    """G."""
    before: int = 0
    """Outputs in front of the codes': the head multiplies them, but their logits are not used."""

    def logits(self) -> Tensor:
        """Logits of every code, logits_BNK float32."""
        if self.books == 1:
            logits_BNV: Tensor = self.head(self.y_BND)
            return logits_BNV[:, self.before :, : self.codes].float()

        def products(y_RGD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
            of_codes = slice(self.books * self.codes)
            logits_RGK = torch.einsum("rgd,gkd->rgk", y_RGD, weight_VD[of_codes].unflatten(0, (self.books, -1)))
            return logits_RGK if bias_V is None else logits_RGK + bias_V[of_codes].view(self.books, -1)

        logits_RGK: Tensor = self.head(self.y_BND.flatten(0, 1), products)
        return logits_RGK.unflatten(0, self.y_BND.shape[:2]).float()

    def losses(self, code_BN: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
        """The training loss of each code, loss_BN, and its -ln p in nats, nats_BN: `code_losses`."""
        if not too_many(code_BN.numel() * self.codes):
            return code_losses(self.logits(), code_BN, smoothing, z_weight)
        return self._in_chunks(code_BN, partial(code_losses_in_chunks, smoothing=smoothing, z_weight=z_weight))

    def figures(self, code_BN: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code in nats, and whether it is the likeliest one: `losses.figures`."""
        if not too_many(code_BN.numel() * self.codes):
            return figures(self.logits(), code_BN)
        return self._in_chunks(code_BN, figures_in_chunks)

    def _in_chunks(
        self, code_BN: Tensor, of: Callable[[Heads, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """What `of` gives for the heads and their codes, in the shape of code_BN."""
        code_GR = self._by_head(code_BN)

        def within(y_GRD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> tuple[Tensor, Tensor]:
            # In the type in which autocast would multiply, as it leaves the inside of a function of our own alone.
            kind = y_GRD.device.type
            low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
            bias_V = None if bias_V is None else bias_V.to(low)
            return of(Heads(y_GRD.to(low), weight_VD.to(low), bias_V, self.codes), code_GR)

        first_GR, second_GR = self.head(self._by_head(self.y_BND[:, self.before :]), within)
        if self.books == 1:
            return first_GR.view(code_BN.shape), second_GR.view(code_BN.shape)
        return first_GR.t().reshape(code_BN.shape), second_GR.t().reshape(code_BN.shape)

    def _by_head(self, x_BN: Tensor) -> Tensor:
        """(G, R) of numbers of each code, or (G, R, D) of features."""
        if self.books == 1:
            return x_BN.flatten(0, 1)[None]
        return x_BN.flatten(0, 1).transpose(0, 1)


@dataclass
class PredictedByLevel:
    """What is predicted of each codebook's codes by a head of its own; everything is of places and codebooks."""

    levels: Sequence[Predicted]
    """Of each codebook, whose codes are code_BP."""

    def logits(self) -> Tensor:
        """Logits of every code, logits_BPGK float32."""
        return torch.stack([level.logits() for level in self.levels], dim=2)

    def losses(self, code_BPG: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
        """The training loss of each code, loss_BPG, and its -ln p in nats, nats_BPG: `code_losses`."""
        return self._of_each(code_BPG, lambda level, code_BP: level.losses(code_BP, smoothing, z_weight))

    def figures(self, code_BPG: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code in nats, and whether it is the likeliest one: `losses.figures`."""
        return self._of_each(code_BPG, lambda level, code_BP: level.figures(code_BP))

    def _of_each(
        self, code_BPG: Tensor, of: Callable[[Predicted, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        pairs = [of(level, code_BP) for level, code_BP in zip(self.levels, code_BPG.unbind(2), strict=True)]
        first, second = zip(*pairs, strict=True)
        return torch.stack(first, dim=2), torch.stack(second, dim=2)
