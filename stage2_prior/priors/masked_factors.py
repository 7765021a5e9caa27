"""Masked priors over codes in factors, for vocabularies too large for one softmax.

    head=factors   a code is masked whole; a small Llama predicts its factors one after the other from the encoder's
                   output, as the autoregressive prior's (Luo et al. 2024, Open-MAGVIT2, has no masked one)
    head=bits      groups of bits, each masked and filled in by itself, as if each were a code of its own at the same
                   place; the output layer has the values of all groups (Weber et al. 2024, MaskBit, section 3.2)

A code is read as the sum of its factors' embeddings, or the mask token's.

Shapes: B batch, N codes, F factors, R = B·N rows, U = N·F factors of a sample, D width.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ModernBertModel

from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.logits import draw_codes, guide
from stage2_prior.priors.base import needs_vqloom
from stage2_prior.priors.factored import FactoredPrior
from stage2_prior.priors.factors import LOADERS, factors_work, layers_with_factors, small_llama
from stage2_prior.priors.filling import log_of
from stage2_prior.priors.llama import KeyValues, through_layers
from stage2_prior.priors.masked import MaskedPrior
from stage2_prior.priors.predicted_factors import PredictedDigits, PredictedFactors
from stage2_prior.priors.stock import Work

Drawn = tuple[Tensor, Callable[[], Tensor]]
"""What is drawn at all places, and what gives its log-probabilities."""


class _Masked(FactoredPrior, MaskedPrior):
    """What both share: what is masked is -1, as the mask token's number may also be a code's."""

    forms = ("grid",)

    @property
    def hidden(self) -> int:
        """What stands for what is masked."""
        return -1

    def both_halves(self, code_BU: Tensor, token_B: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Codes and conditioning tokens, with guidance once more without a condition."""
        if strength == 1:
            return code_BU, token_B
        return code_BU.repeat(2, 1), torch.cat([token_B, torch.full_like(token_B, self.condition.null)])


class MaskedFactorsPrior(_Masked):
    """Codes in any order, each by its factors one after the other."""

    head = "factors"
    stock = "AutoModel"
    loaders: ClassVar = LOADERS

    factors: Any

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        encoder = ModernBertModel(cls.settings(config, vocabulary, source))
        return cls(encoder, vocabulary, source, factors=small_llama(config, vocabulary))

    @property
    def drawn_by(self) -> int:
        """F."""
        return len(self.vocabulary.factors)

    def work(self) -> list[Work]:
        """A code is one token of the encoder and F of the small Llama."""
        return [*super().work(), factors_work(self.factors, self.vocabulary)]

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """Those of the small Llama count for each factor."""
        return layers_with_factors(cls.kind, config, source)

    def usage(self, name: str) -> str:
        """Plain transformers load both."""
        why = "an encoder over the codes and a Llama over the factors of each code take turns"
        stock = (
            f"`{self.stock}.from_pretrained` loads the one in `{name}`, `AutoModelForCausalLM` the one in `factors/`"
        )
        return needs_vqloom(why, stock)

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Any:
        """What is predicted of every code, given the codes (-1: masked) at all positions."""
        x_BTD = torch.cat([self.embedded(token_B), self.read(self.vocabulary.digits(code_BN))], dim=1)
        y_BTD = self.lm(inputs_embeds=x_BTD).last_hidden_state
        return PredictedFactors(y_BTD[:, -code_BN.shape[1] :], self.factors, self.vocabulary)

    def drawn(
        self, code_BGP: Tensor, level: int, token_B: Tensor, uniform_BXP: Tensor, drawing: Drawing, strength: float
    ) -> Drawn:
        """See MaskedPrior; the log-probability of a code is the sum of its factors'."""
        y_XND = self.predicted(*self.both_halves(code_BGP[:, 0], token_B, strength)).y_BND
        x_ZD, kept, drawn, rates = y_XND.flatten(0, 1), KeyValues(), list[Tensor](), list[Tensor]()
        embed, head, sizes = self.factors.get_input_embeddings(), self.factors.lm_head, self.vocabulary.sizes
        for number, (first, weight_KD) in enumerate(
            zip(self.vocabulary.first_tokens, head.weight.split(sizes), strict=True)
        ):
            at_11 = torch.full((1, 1), number, device=x_ZD.device)
            y_ZD = through_layers(self.factors.model, x_ZD[:, None], at_11, kept=kept)[:, 0]
            logits_RK = F.linear(y_ZD if strength == 1 else guide(y_ZD, strength), weight_KD).float()
            drawn.append(draw_codes(logits_RK, uniform_BXP[:, number].reshape(-1), drawing))
            rates.append(log_of(logits_RK[:, None], drawn[-1][:, None])[:, 0])
            x_RD = embed(drawn[-1] + first)
            x_ZD = x_RD if strength == 1 else x_RD.repeat(2, 1)
        shape = code_BGP[:, 0].shape
        return self.joined(torch.stack(drawn, dim=-1)).view(shape), lambda: torch.stack(rates).sum(0).view(shape)


class MaskedBitsPrior(_Masked):
    """Groups of bits in any order; what MaskedPrior calls codes are they, each code's one after the other."""

    head = "bits"

    @property
    def places(self) -> int:
        """U, the groups of a sample."""
        return self.source.positions * len(self.vocabulary.factors)

    def work(self) -> list[Work]:
        """Each code is one token, which attends to all."""
        tokens = self.condition.prefix + self.source.positions
        return [Work(self.lm, tokens / self.source.positions, tokens), *self.condition.work(self.source.positions)]

    def usage(self, name: str) -> str:
        """Plain transformers load it; groups and steps are vqloom's."""
        bits = ", ".join(map(str, self.vocabulary.factors))
        why = f"codes are read and predicted in groups of {bits} bits, filled in in steps"
        return needs_vqloom(why, f'`{self.stock}.from_pretrained("{name}")` loads the ModernBERT')

    def digits(self, code_BN: Tensor) -> Tensor:
        """The groups of codes in a row, digit_BU."""
        return self.vocabulary.digits(code_BN).flatten(1)

    def by_code(self, x_BU: Tensor) -> Tensor:
        """What belongs to groups by their codes, x_BNF."""
        return x_BU.unflatten(1, (-1, len(self.vocabulary.factors)))

    def predicted(self, digit_BU: Tensor, token_B: Tensor) -> Any:
        """What is predicted of every group, given the groups (-1: masked) at all positions."""
        x_BND = self.read(self.by_code(digit_BU))
        x_BTD = torch.cat([self.embedded(token_B), x_BND], dim=1)
        y_BTD = self.lm.head(self.lm.model(inputs_embeds=x_BTD).last_hidden_state)
        y_BNFD = y_BTD[:, -x_BND.shape[1] :, None].expand(-1, -1, len(self.vocabulary.factors), -1)
        return PredictedDigits(y_BNFD, self.lm.decoder, self.vocabulary)

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """See MaskedPrior; shares and places are of groups, and what is returned is of a code of F groups."""
        loss, nats = super().forward(self.digits(code_BN), token_B)
        return loss * len(self.vocabulary.factors), nats * len(self.vocabulary.factors)

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """See MaskedPrior; the bound is that of filling in groups one by one, and what is right are groups."""
        nats_BU, right_BU = super().score(self.digits(code_BN), token_B)
        return self.by_code(nats_BU).sum(-1), self.by_code(right_BU).mean(-1)

    def halton_ranks(self) -> Tensor:
        """See MaskedPrior; the groups of a code are filled in together."""
        return super().halton_ranks().repeat_interleave(len(self.vocabulary.factors))

    def drawn(
        self, code_BGP: Tensor, level: int, token_B: Tensor, uniform_BXP: Tensor, drawing: Drawing, strength: float
    ) -> Drawn:
        """See MaskedPrior."""
        logits = self.predicted(*self.both_halves(code_BGP[:, 0], token_B, strength)).logits()
        if strength != 1:
            logits = [guide(logits_XNK, strength) for logits_XNK in logits]
        uniform_BNF = self.by_code(uniform_BXP[:, 0])
        drawn_BNF = torch.empty_like(uniform_BNF, dtype=torch.int64)
        for number, logits_BNK in enumerate(logits):
            drawn_R = draw_codes(logits_BNK.flatten(0, 1), uniform_BNF[..., number].reshape(-1), drawing)
            drawn_BNF[..., number] = drawn_R.view(drawn_BNF.shape[:2])

        def rates() -> Tensor:
            pairs = zip(logits, drawn_BNF.unbind(-1), strict=True)
            return torch.stack([log_of(logits_BNK, drawn_BN) for logits_BNK, drawn_BN in pairs], dim=-1).flatten(1)

        return drawn_BNF.flatten(1), rates

    @without_autocast
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN; steps divide up the groups. See MaskedPrior."""
        given_BU = None if given_BN is None else self.digits(given_BN)
        return self.joined(self.by_code(super().sample(token_B, uniform_BU, drawing, given_BU)))
