"""The masked prior: a stock bidirectional encoder (ModernBERT) that fills in masked codes, several at a time.

Trained as MaskGIT (Chang et al. 2022, section 3): a share cos(π/2 · u) of the codes, u uniform in [0, 1), is masked,
and the encoder predicts them from the condition and the codes left. Sampled in a few steps, in one of two orders:

    confidence   each step keeps the most certain of the codes drawn, with decreasing noise (Chang et al. 2022)
    halton       each step fills positions that lie far apart, by a Halton sequence (Besnier et al. 2025)

Codes of several codebooks are filled in codebook by codebook, those of a coarser one first (Borsos et al. 2023,
SoundStorm, section 3): the encoder reads the sum of a place's embeddings and has a head for each codebook. In training
one codebook, drawn for each sample, is masked as above, those after it wholly and those before it not at all.

Shapes: B batch, N positions (h·w codes; with several codebooks P places of G codes), K codes, S decoding steps,
T = 1 + P tokens.
"""

import math
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor
from transformers import ModernBertForMaskedLM

from launch.ranks.transfer import to_device
from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.logits import draw_codes, guide
from stage2_prior.priors.base import Prior
from stage2_prior.priors.predicted import Predicted
from stage2_prior.priors.stock import Work, bert_settings

SHARES = 8
"""Shares of masked codes that `score` averages over."""


class MaskedPrior(Prior):
    """Codes in any order, each given the condition and the codes already filled in."""

    kind = "masked"
    mask_token = True
    stock = "AutoModelForMaskedLM"
    forms = ("grid", "levels")

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        settings = bert_settings(
            config.layers,
            config.rope_theta,
            vocab_size=vocabulary.size,
            hidden_size=config.width,
            intermediate_size=config.inner_width,
            num_attention_heads=config.heads,
            max_position_embeddings=config.prefix + source.positions // source.codebooks + 1,
            tie_word_embeddings=config.tied,
            attention_dropout=config.attention_dropout,
        )
        return cls(ModernBertForMaskedLM(settings), vocabulary, source)

    @property
    def places(self) -> int:
        """P, the places of a sample."""
        return self.source.positions // self.source.codebooks

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Predicted:
        """What is predicted of every code, given the codes (or mask tokens) at all positions."""
        books, codes = self.source.codebooks, self.vocabulary.codebook_size
        embed, read_BN = self.lm.get_input_embeddings(), self.arranged(code_BN)
        if books > 1:
            masked_BPG = read_BN == self.vocabulary.mask
            read_BPG = torch.where(masked_BPG, read_BN, self.vocabulary.code_tokens(read_BN))
            x_BPD = embed(read_BPG).sum(2)
        else:
            x_BPD = embed(read_BN)
        x_BTD = torch.cat([self.embedded(token_B), x_BPD], dim=1)
        y_BTD = self.lm.head(self.lm.model(inputs_embeds=x_BTD).last_hidden_state)
        before = y_BTD.shape[1] - x_BPD.shape[1]
        if books > 1:
            y_BPGD = y_BTD[:, before:, None].expand(-1, -1, books, -1)
            return Predicted(y_BPGD, self.lm.decoder, codes, books)
        return Predicted(y_BTD, self.lm.decoder, codes, before=before)

    def masked(self, code_BN: Tensor, masked_BN: Tensor) -> Tensor:
        """The codes, with the mask token where masked_BN is true."""
        return torch.where(masked_BN, self.vocabulary.mask, code_BN)

    def from_level(self, masked_BP: Tensor, level_B: Tensor) -> tuple[Tensor, Tensor]:
        """Which codes are masked where masked_BP of a codebook are, and which of these are that codebook's."""
        if self.source.codebooks == 1:
            return masked_BP, masked_BP
        after_BG1 = (torch.arange(self.source.codebooks, device=level_B.device) - level_B[:, None])[..., None]
        own_BGP = (after_BG1 == 0) & masked_BP[:, None]
        return (own_BGP | (after_BG1 > 0)).flatten(1), own_BGP.flatten(1)

    def guided_logits(self, code_BN: Tensor, token_B: Tensor, strength: float) -> Tensor:
        """The logits with classifier-free guidance: both halves in one batch; strength 1 is no guidance."""
        if strength == 1:
            return self.logits(code_BN, token_B)
        null_B = torch.full_like(token_B, self.condition.null)
        return guide(self.logits(code_BN.repeat(2, 1), torch.cat([token_B, null_B])), strength)

    def work(self) -> list[Work]:
        """Each token attends to all."""
        codes, tokens = self.source.positions, self.condition.prefix + self.places
        return [Work(self.lm, tokens / codes, tokens), *self.condition.work(codes)]

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """A place's codes share the layers."""
        return config.layers / source.codebooks

    def usage(self, name: str) -> str:
        """Plain transformers load it; the decoding in steps is vqloom's."""
        if self.condition.prefix:
            return super().usage(name)
        mask = self.vocabulary.mask
        return f'It is a stock ModernBERT: `{self.stock}.from_pretrained("{name}")` loads it; the mask token is {mask}.'

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss and mean nats of the masked codes; conditions, shares and places are random.

        Both are sums over the samples, divided by the samples' share of the whole batch's masked codes.
        """
        token_B = self.dropped(token_B)
        batch, positions, device = len(code_BN), self.places, code_BN.device
        share_X1 = torch.cos(self.sample_noise.for_all(batch, 1, device=device) * (math.pi / 2))
        count_X1 = (share_X1 * positions).ceil().clamp(min=1)
        rank_BP = self.sample_noise.uniform(batch, positions, device=device).argsort(1).argsort(1)
        masked_BP = rank_BP < self.sample_noise.own(count_X1)
        level_B = torch.zeros(batch, dtype=torch.int64, device=device)
        if (books := self.source.codebooks) > 1:
            level_B = (self.sample_noise.uniform(batch, device=device) * books).long().clamp(max=books - 1)
        masked_BN, own_BN = self.from_level(masked_BP, level_B)
        losses = self.losses(self.masked(code_BN, masked_BN), token_B, code_BN)
        loss, nats = ((self.in_a_row(each) * own_BN).sum() / (batch * count_X1.mean()) for each in losses)
        return loss, nats

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """An upper bound of -ln p in nats, spread evenly over each codebook's codes, and the share predicted right.

        The masked codes' mean nats, averaged over how many are masked (here SHARES numbers with one fixed choice of
        places each), bound -ln p / P of filling in a codebook's codes one by one in random order. (Hoogeboom et al.
        2022, Autoregressive diffusion models, eq. 8)
        """
        batch, positions, device = len(code_BN), self.places, code_BN.device
        mean_G2B = torch.zeros(self.source.codebooks, 2, batch, device=device)
        for level, mean_2B in enumerate(mean_G2B):
            generator, level_B = torch.Generator().manual_seed(0), torch.full((batch,), level, device=device)
            for number in range(SHARES):
                count = 1 + int(positions * (number + 0.5) / SHARES)
                masked_P = torch.zeros(positions, dtype=torch.bool)
                masked_P[torch.randperm(positions, generator=generator)[:count]] = True
                masked_BN, own_BN = self.from_level(to_device(masked_P, device).expand(batch, -1), level_B)
                scores = self.predicted(self.masked(code_BN, masked_BN), token_B).figures(self.arranged(code_BN))
                mean_2B += torch.stack([(self.in_a_row(each) * own_BN).sum(1) / count / SHARES for each in scores])
        nats_BG, right_BG = mean_G2B.permute(1, 2, 0)
        return nats_BG.repeat_interleave(positions, 1), right_BG.repeat_interleave(positions, 1)

    def level_steps(self, drawing: Drawing) -> list[int]:
        """The steps of each codebook: those of the drawing for the first, half as many for each next, at least one."""
        return [max(1, drawing.steps >> level) for level in range(self.source.codebooks)]

    def draws(self, drawing: Drawing) -> int:
        """In each step a number to draw each code, and with order=confidence another to choose which to keep."""
        return sum(self.level_steps(drawing)) * self.places * (2 if drawing.order == "confidence" else 1)

    @without_autocast
    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN in `drawing.steps` steps (`level_steps`); see Prior.sample.

        A codebook's steps divide up its codes that aren't given. Those of finer codebooks are not read, given or not.
        """
        batch, books, steps_G = len(token_B), self.source.codebooks, self.level_steps(drawing)
        uniform_SBXP = uniform_BU.view(batch, sum(steps_G), -1, self.places).transpose(0, 1)
        code_BGP = torch.full((batch, books, self.places), self.vocabulary.mask, device=token_B.device)
        given_BGP = None if given_BN is None else given_BN.view_as(code_BGP)
        first = 0
        for level, steps in enumerate(steps_G):
            given_BP = None if given_BGP is None else given_BGP[:, level]
            self._fill(code_BGP, level, first, uniform_SBXP[first : first + steps], token_B, drawing, given_BP)
            first += steps
        return code_BGP.flatten(1)

    def _fill(
        self,
        code_BGP: Tensor,
        level: int,
        first: int,
        uniform_SBXP: Tensor,
        token_B: Tensor,
        drawing: Drawing,
        given_BP: Tensor | None,
    ) -> None:
        """Fill in a codebook's codes in code_BGP, those of step `first` and after of all steps."""
        batch, steps, total = len(token_B), len(uniform_SBXP), sum(self.level_steps(drawing))
        code_BP = code_BGP[:, level]
        open_BP = torch.ones_like(code_BP, dtype=torch.bool)
        if given_BP is not None:
            open_BP = given_BP < 0
            code_BP.copy_(torch.where(open_BP, code_BP, given_BP))
        start_B1 = open_BP.sum(1, keepdim=True)
        at_P = None
        if drawing.order == "halton":
            at_P = to_device(halton_order(*self.source.grid).argsort(), token_B.device)
        for step, uniform_BXP in enumerate(uniform_SBXP):
            strength, temperature = (at(first + step, total) for at in (drawing.guidance_at, drawing.temperature_at))
            logits_BPK = self.guided_logits(code_BGP.flatten(1), token_B, strength)
            logits_BPK = logits_BPK if logits_BPK.ndim == 3 else logits_BPK[:, :, level]
            drawn_X = draw_codes(logits_BPK.flatten(0, 1), uniform_BXP[:, 0].reshape(-1), drawing, temperature)
            drawn_BP = drawn_X.view(batch, -1)
            left_B1 = (start_B1.double() * still_masked(step + 1, steps)).round()
            if at_P is not None:
                score_BP = -at_P.float().expand(batch, -1)
            else:
                own = replace(drawing, steps=steps)
                score_BP = confidence(logits_BPK, drawn_BP, uniform_BXP[:, 1], own, step)
            now_B1 = open_BP.sum(1, keepdim=True) - left_B1
            fill_BP = open_BP & (rank(score_BP.masked_fill(~open_BP, -torch.inf)) < now_B1)
            code_BP.copy_(torch.where(fill_BP, drawn_BP, code_BP))
            open_BP = open_BP & ~fill_BP


def still_masked(step: int, steps: int) -> float:
    """Share of the codes that is still masked after `step` of `steps` steps: cos(π/2 · step/steps)."""
    return math.cos(math.pi / 2 * step / steps) if step < steps else 0.0


def confidence(logits_BNK: Tensor, drawn_BN: Tensor, uniform_BN: Tensor, drawing: Drawing, step: int) -> Tensor:
    """Log-probability of the codes drawn, plus Gumbel noise that decreases to 0 at the last step."""
    log_BN = logits_BNK.log_softmax(-1).gather(2, drawn_BN[..., None])[..., 0]
    gumbel_BN = -torch.log(-torch.log(uniform_BN.clamp(1e-7, 1 - 1e-7)))
    return log_BN + drawing.choice_temperature * (1 - (step + 1) / drawing.steps) * gumbel_BN


def rank(score_BN: Tensor) -> Tensor:
    """Place of each score in its row, 0 for the highest."""
    return score_BN.argsort(stable=True, dim=1, descending=True).argsort(1)


def halton_order(*grid: int) -> Tensor:
    """All positions of a grid, int64 (h·w,), in the order in which the Halton sequence in bases 2 and 3 hits them.

    Latent tokens, which have no place, count as one row. Time, as the first of three axes, has base 5.
    """
    sides = grid if len(grid) > 1 else (1, *grid)
    bases = (5, 2, 3)[-len(sides) :]
    order: dict[int, None] = {}
    number = 0
    while len(order) < math.prod(sides):
        number, place = number + 1, 0
        for side, base in zip(sides, bases, strict=True):
            place = place * side + int(_halton(number, base) * side)
        order.setdefault(place)
    return torch.tensor(list(order))


def _halton(number: int, base: int) -> float:
    """The radical inverse: a number's digits in a base, mirrored at the point."""
    value, place = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        value += digit * place
        place /= base
    return value
