"""What priors share that read codes in factors: nothing of them has a row for each code.

A code is read as the sum of its factors' embeddings, which the stock transformer takes as `inputs_embeds`.

Shapes: B batch, N codes of a picture, F factors of each, D width.
"""

from typing import Any

import torch
from torch import Tensor

from stage2_prior.codes.factors import joined
from stage2_prior.priors.base import Prior


class FactoredPrior(Prior):
    """A prior whose vocabulary has factors."""

    @property
    def described(self) -> dict[str, Any]:
        """See Prior."""
        return super().described | {"head": self.head}

    def joined(self, digit_BNF: Tensor) -> Tensor:
        """The codes of factors, code_BN."""
        return joined(digit_BNF, self.vocabulary.factors)

    def read(self, digit_BNF: Tensor) -> Tensor:
        """The sum of the factors' embeddings, x_BND; a factor of -1 is masked."""
        embed, token_BNF = self.lm.get_input_embeddings(), self.vocabulary.code_tokens(digit_BNF)
        if self.vocabulary.masked:
            token_BNF = torch.where(digit_BNF < 0, self.vocabulary.mask, token_BNF)
        first_BN, *other = token_BNF.unbind(-1)
        x_BND: Tensor = embed(first_BN)
        for token_BN in other:  # one at a time: together they would take F times the memory
            x_BND = x_BND + embed(token_BN)
        return x_BND

    def noisy(self, code_BN: Tensor) -> Tensor:
        """See Prior; each factor of a random code is drawn by itself, as one number has too few bits for all codes."""
        if self.code_noise <= 0:
            return code_BN
        bits, shape = self.vocabulary.factors, code_BN.shape
        which_BN, *others = self.sample_noise.uniform(shape[0], 1 + len(bits), shape[1], device=code_BN.device).unbind(
            1
        )
        drawn = [(x_BN * (1 << n)).long().clamp(max=(1 << n) - 1) for x_BN, n in zip(others, bits, strict=True)]
        return torch.where(which_BN < self.code_noise, self.joined(torch.stack(drawn, dim=-1)), code_BN)
