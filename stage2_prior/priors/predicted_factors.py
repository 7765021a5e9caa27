"""What a prior predicts of the factors of every code: a few small softmaxes instead of one over all codes.

Shapes: B batch, N codes of a picture, F factors of each, R = B·N rows, D width, V values of all factors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.losses import (
    Heads,
    code_losses,
    code_losses_in_chunks,
    figures,
    figures_in_chunks,
    too_many,
)
from stage2_prior.priors.predicted import Head


@dataclass
class PredictedDigits:
    """Outputs about every factor, and the stock head whose rows are the values of all factors."""

    y_BNFD: Tensor
    head: Head
    vocabulary: Vocabulary

    def logits(self) -> list[Tensor]:
        """Logits of each factor, logits_BNK float32 with its own K."""
        shape = self.y_BNFD.shape[:2]
        found = self._of_heads(lambda heads, number: heads.logits(0, slice(None)))
        return [logits_RK.float().unflatten(0, shape) for logits_RK in found]

    def losses(self, digit_X: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
        """`code_losses` of each factor by itself, in the shape of digit_X: (B, N, F), or these in a row."""
        how: Any = {"smoothing": smoothing, "z_weight": z_weight}
        return self._pairs(digit_X, partial(code_losses, **how), partial(code_losses_in_chunks, **how))

    def figures(self, digit_X: Tensor) -> tuple[Tensor, Tensor]:
        """`losses.figures` of each factor by itself, in the shape of digit_X."""
        return self._pairs(digit_X, figures, figures_in_chunks)

    def _pairs(
        self, digit_X: Tensor, whole: Callable[..., Any], in_chunks: Callable[..., Any]
    ) -> tuple[Tensor, Tensor]:
        digit_RF = digit_X.reshape(-1, self.y_BNFD.shape[2])

        def of(heads: Heads, number: int) -> Any:
            digit_1R = digit_RF[None, :, number]
            if too_many(digit_1R.numel() * heads.codes):
                return in_chunks(heads, digit_1R)
            return whole(heads.logits(0, slice(None))[None], digit_1R)

        first, second = zip(*self._of_heads(of), strict=True)
        return tuple(torch.cat(each).t().reshape(digit_X.shape) for each in (first, second))  # type: ignore[return-value]

    def _of_heads(self, of: Callable[[Heads, int], Any]) -> list[Any]:
        """What `of` gives for each factor's rows of the head, within the head's forward."""

        def within(y_RFD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> list[Any]:
            # In the type in which autocast would multiply, as it leaves the inside of a function of our own alone.
            kind = y_RFD.device.type
            low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
            found = []
            for number, (first, size) in enumerate(
                zip(self.vocabulary.first_tokens, self.vocabulary.sizes, strict=True)
            ):
                own = slice(first, first + size)
                bias_K = None if bias_V is None else bias_V[own].to(low)
                y_1RD = y_RFD[None, :, number].to(low)
                found.append(of(Heads(y_1RD, weight_VD[own].to(low), bias_K, size), number))
            return found

        found: list[Any] = self.head(self.y_BNFD.flatten(0, 1), within)
        return found


@dataclass
class PredictedFactors:
    """Outputs about every code, and the small Llama that predicts its factors one after the other.

    ln p(code) = Σ_f ln p(factor f | factors before it, y). (Luo et al. 2024, Open-MAGVIT2, eq. 4)
    """

    y_BND: Tensor
    llama: Any
    """A stock LlamaForCausalLM; what it reads first is the output."""
    vocabulary: Vocabulary

    def given(self, digit_BNF: Tensor) -> PredictedDigits:
        """What is predicted of each factor, given those before it."""
        token_BNf = self.vocabulary.code_tokens(digit_BNF)[..., :-1]
        x_BNFD = torch.cat([self.y_BND[:, :, None], self.llama.get_input_embeddings()(token_BNf)], dim=2)
        y_RFD = through_layers(self.llama.model, x_BNFD.flatten(0, 1))
        return PredictedDigits(y_RFD.unflatten(0, self.y_BND.shape[:2]), self.llama.lm_head, self.vocabulary)

    def losses(self, code_BN: Tensor, smoothing: float, z_weight: float) -> tuple[Tensor, Tensor]:
        """The sums over the factors of their `code_losses`: loss_BN, nats_BN."""
        digit_BNF = self.vocabulary.digits(code_BN)
        loss_BNF, nats_BNF = self.given(digit_BNF).losses(digit_BNF, smoothing, z_weight)
        return loss_BNF.sum(-1), nats_BNF.sum(-1)

    def figures(self, code_BN: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code in nats, and 1 where each factor is the likeliest one after those before it."""
        digit_BNF = self.vocabulary.digits(code_BN)
        nats_BNF, right_BNF = self.given(digit_BNF).figures(digit_BNF)
        return nats_BNF.sum(-1), right_BNF.prod(-1)
