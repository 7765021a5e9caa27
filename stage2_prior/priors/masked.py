"""The masked prior: a stock bidirectional encoder (ModernBERT) that fills in masked codes, several at a time.

Trained as MaskGIT (Chang et al. 2022, section 3): a share cos(π/2 · u) of the codes, u uniform in [0, 1), is masked,
and the encoder predicts them from the condition and the codes left. Sampled in a few steps, in one of two orders:

    confidence   each step keeps the most certain of the codes drawn, with decreasing noise (Chang et al. 2022)
    halton       each step fills positions that lie far apart, by a Halton sequence (Besnier et al. 2025)

Shapes: B batch, N positions (h·w codes), K codes, S decoding steps, T = 1 + N tokens.
"""

import math
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
            max_position_embeddings=config.prefix + source.positions + 1,
            tie_word_embeddings=config.tied,
            attention_dropout=config.attention_dropout,
        )
        return cls(ModernBertForMaskedLM(settings), vocabulary, source)

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Predicted:
        """What is predicted of the code at every position, given the codes (or mask tokens) at all of them."""
        x_BTD = torch.cat([self.embedded(token_B), self.lm.get_input_embeddings()(code_BN)], dim=1)
        y_BTD = self.lm.head(self.lm.model(inputs_embeds=x_BTD).last_hidden_state)
        before = y_BTD.shape[1] - code_BN.shape[1]
        return Predicted(y_BTD, self.lm.decoder, self.vocabulary.codebook_size, before=before)

    def masked(self, code_BN: Tensor, masked_BN: Tensor) -> Tensor:
        """The codes, with the mask token where masked_BN is true."""
        return torch.where(masked_BN, self.vocabulary.mask, code_BN)

    def guided_logits(self, code_BN: Tensor, token_B: Tensor, strength: float) -> Tensor:
        """The logits with classifier-free guidance: both halves in one batch; strength 1 is no guidance."""
        if strength == 1:
            return self.logits(code_BN, token_B)
        null_B = torch.full_like(token_B, self.condition.null)
        return guide(self.logits(code_BN.repeat(2, 1), torch.cat([token_B, null_B])), strength)

    def work(self) -> list[Work]:
        """Each token attends to all."""
        codes = self.source.positions
        tokens = self.condition.prefix + codes
        return [Work(self.lm, tokens / codes, tokens), *self.condition.work(codes)]

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
        batch, positions = code_BN.shape
        share_X1 = torch.cos(self.sample_noise.for_all(batch, 1, device=code_BN.device) * (math.pi / 2))
        count_X1 = (share_X1 * positions).ceil().clamp(min=1)
        rank_BN = self.sample_noise.uniform(batch, positions, device=code_BN.device).argsort(1).argsort(1)
        masked_BN = rank_BN < self.sample_noise.own(count_X1)
        losses = self.losses(self.masked(code_BN, masked_BN), token_B, code_BN)
        loss, nats = ((each_BN * masked_BN).sum() / (batch * count_X1.mean()) for each_BN in losses)
        return loss, nats

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """An upper bound of -ln p in nats, spread evenly over the codes, and the share of masked codes predicted right.

        The masked codes' mean nats, averaged over how many are masked (here SHARES numbers with one fixed choice of
        places each), bound -ln p / N of filling in the codes one by one in random order. (Hoogeboom et al. 2022,
        Autoregressive diffusion models, eq. 8)
        """
        batch, positions = code_BN.shape
        generator = torch.Generator().manual_seed(0)
        mean_2B = torch.zeros(2, batch, device=code_BN.device)
        for number in range(SHARES):
            count = 1 + int(positions * (number + 0.5) / SHARES)
            masked_N = torch.zeros(positions, dtype=torch.bool)
            masked_N[torch.randperm(positions, generator=generator)[:count]] = True
            masked_BN = to_device(masked_N, code_BN.device).expand(batch, -1)
            scores = self.predicted(self.masked(code_BN, masked_BN), token_B).figures(code_BN)
            mean_2B += torch.stack([(each_BN * masked_BN).sum(1) / count / SHARES for each_BN in scores])
        nats_B, right_B = mean_2B
        return nats_B[:, None].expand(-1, positions), right_B[:, None].expand(-1, positions)

    def draws(self, drawing: Drawing) -> int:
        """In each step a number to draw each code, and with order=confidence another to choose which to keep."""
        return drawing.steps * self.source.positions * (2 if drawing.order == "confidence" else 1)

    @without_autocast
    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN in `drawing.steps` steps; see Prior.sample. The steps divide up the codes that aren't given."""
        batch, positions = len(token_B), self.source.positions
        uniform_SBXN = uniform_BU.view(batch, drawing.steps, -1, positions).transpose(0, 1)
        open_BN = torch.ones(batch, positions, dtype=torch.bool, device=token_B.device)
        code_BN = torch.full_like(open_BN, self.vocabulary.mask, dtype=torch.int64)
        if given_BN is not None:
            open_BN, code_BN = given_BN < 0, torch.where(given_BN < 0, code_BN, given_BN)
        start_B1 = open_BN.sum(1, keepdim=True)
        at_N = None
        if drawing.order == "halton":
            at_N = to_device(halton_order(*self.source.grid).argsort(), token_B.device)
        for step, uniform_BXN in enumerate(uniform_SBXN):
            strength, temperature = (at(step, drawing.steps) for at in (drawing.guidance_at, drawing.temperature_at))
            logits_BNK = self.guided_logits(code_BN, token_B, strength)
            drawn_X = draw_codes(logits_BNK.flatten(0, 1), uniform_BXN[:, 0].reshape(-1), drawing, temperature)
            drawn_BN = drawn_X.view(batch, -1)
            left_B1 = (start_B1.double() * still_masked(step + 1, drawing.steps)).round()
            if at_N is not None:
                score_BN = -at_N.float().expand(batch, -1)
            else:
                score_BN = confidence(logits_BNK, drawn_BN, uniform_BXN[:, 1], drawing, step)
            now_B1 = open_BN.sum(1, keepdim=True) - left_B1
            fill_BN = open_BN & (rank(score_BN.masked_fill(~open_BN, -torch.inf)) < now_B1)
            code_BN = torch.where(fill_BN, drawn_BN, code_BN)
            open_BN = open_BN & ~fill_BN
        return code_BN


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

    Latent tokens, which have no place, count as one row.
    """
    height, width = grid if len(grid) == 2 else (1, *grid)
    order: dict[int, None] = {}
    number = 0
    while len(order) < height * width:
        number += 1
        order.setdefault(int(_halton(number, 2) * height) * width + int(_halton(number, 3) * width))
    return torch.tensor(list(order))


def _halton(number: int, base: int) -> float:
    """The radical inverse: a number's digits in a base, mirrored at the point."""
    value, place = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        value += digit * place
        place /= base
    return value
