"""The autoregressive prior over codes in bits (model.head=bits): BAR's masked bit modelling.

A stock Llama runs over the codes, each read as the sum of its bits' embeddings. Given its output about a code, a head
(stage2_prior.priors.bit_head) predicts the code's masked bits from those that are not masked. In training a share
1 - σ(0.8·n), n normal, of each code's bits is masked; the others count SEEN times as much in the loss.

A code is drawn in steps, each of which fills in the most certain bits. Which these are does not depend on what is
drawn, so that with one bit a step p(code) = Π_l p(bit at the place of step l | bits of the steps before): the sum of
these over all codes is 1, and `score` gives it exactly.

Shapes: B batch, N codes, L bits, D width.
"""

from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from launch.command.cli import UserError
from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.bits import MASKED, CachedBits, decode_bits, most_certain
from stage2_prior.priors.base import Prior, needs_vqloom
from stage2_prior.priors.bit_head import BitHead
from stage2_prior.priors.factored import FactoredPrior
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.losses import code_losses, figures
from stage2_prior.priors.stock import Work, llama_settings, without_head

SPREAD, SEEN = 0.8, 0.1
"""Of the masked shares of bits, and the weight of bits that aren't masked. (BAR)"""


class BitsPrior(FactoredPrior):
    """Codes one after the other, and the bits of each a few at a time."""

    kind = "autoregressive"
    head = "bits"
    stock = "AutoModel"
    loaders: ClassVar[dict[str, Any]] = {"bits": BitHead.from_pretrained}
    one_by_one = False
    in_order = True

    bits: Any

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        lm = without_head(llama_settings(config, vocabulary.size, config.prefix + source.positions))
        head = config.head_width or config.width
        return cls(
            lm, vocabulary, source, bits=BitHead(len(vocabulary.factors), config.width, head, config.head_layers)
        )

    def work(self) -> list[Work]:
        """A code is one token of the Llama and one row of the head."""
        codes, text = self.source.positions, self.condition.prefix
        over_codes = Work(self.lm, (text + codes) / codes, (text + codes) / 2)
        return [over_codes, Work(self.bits, 1.0, 0.0), *self.condition.work(codes)]

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """A layer of the head keeps about half as much as one of the Llama, at its own width."""
        return config.layers + 0.5 * config.head_layers * (config.head_width or config.width) / config.width

    def usage(self, name: str) -> str:
        """Plain transformers load the Llama; the head over bits is vqloom's."""
        why = "its head, in `bits/`, fills in the bits of each code, which the Llama reads as a sum of embeddings"
        return needs_vqloom(why, f'`{self.stock}.from_pretrained("{name}")` loads the one over codes')

    def outputs(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        """The Llama's output y_BND about each code, given the condition and the codes before it."""
        x_BND = self.read(self.vocabulary.digits(code_BN[:, :-1]))
        x_BTD = torch.cat([self.embedded(token_B), x_BND], dim=1)
        return through_layers(self.lm, x_BTD)[:, -code_BN.shape[1] :]

    def masks(self, uniform_BNX: Tensor) -> Tensor:
        """Which bits of each code are masked, bool masked_BNL, at least one; from L + 1 numbers a code."""
        bits = uniform_BNX.shape[-1] - 1
        share_BN1 = torch.sigmoid(-SPREAD * torch.special.ndtri(uniform_BNX[..., -1:]))
        count_BN1 = (share_BN1 * bits).ceil().clamp(min=1)
        return uniform_BNX[..., :-1].argsort(-1).argsort(-1) < count_BN1

    def losses(  # type: ignore[override]
        self, read_BN: Tensor, token_B: Tensor, code_BN: Tensor, masked_BNL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """loss_BN and nats_BN of the codes: L times the mean of their bits', weighted, and of the masked ones."""
        bit_BNL = self.vocabulary.digits(code_BN)
        seen_BNL = torch.where(masked_BNL, MASKED, bit_BNL)
        logits_BNL2 = self.bits(self.outputs(read_BN, token_B), seen_BNL)
        loss_BNL, nats_BNL = code_losses(logits_BNL2, bit_BNL, self.label_smoothing, self.z_loss)
        masked_BNL = masked_BNL.float()
        weight_BNL, bits = SEEN + (1 - SEEN) * masked_BNL, masked_BNL.shape[-1]
        loss_BN = bits * (loss_BNL * weight_BNL).sum(-1) / weight_BNL.sum(-1)
        return loss_BN, bits * (nats_BNL * masked_BNL).sum(-1) / masked_BNL.sum(-1)

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """See Prior; which bits are masked is random too."""
        token_B, read_BN = self.dropped(token_B), self.noisy(code_BN)
        shape = code_BN.shape[1], len(self.vocabulary.factors) + 1
        masked_BNL = self.masks(self.sample_noise.uniform(len(code_BN), *shape, device=code_BN.device))
        loss_BN, nats_BN = self.losses(read_BN, token_B, code_BN, masked_BNL)
        return loss_BN.mean(), nats_BN.mean()

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code in nats as one bit a step draws it, and 1 where each bit was the likelier one."""
        y_BND, bit_BNL = self.outputs(code_BN, token_B), self.vocabulary.digits(code_BN)
        open_BNL = torch.ones_like(bit_BNL, dtype=torch.bool)
        nats_BN = torch.zeros(code_BN.shape, device=code_BN.device)
        right_BN = torch.ones_like(nats_BN)
        for _ in range(bit_BNL.shape[-1]):
            logits_BNL2 = self.bits(y_BND, torch.where(open_BNL, MASKED, bit_BNL))
            place_BN1 = most_certain(logits_BNL2, open_BNL, 1)
            logits_BN2 = logits_BNL2.gather(2, place_BN1[..., None].expand(-1, -1, -1, 2))[:, :, 0]
            nats, right = figures(logits_BN2, bit_BNL.gather(2, place_BN1)[..., 0])
            nats_BN, right_BN = nats_BN + nats, right_BN * right
            open_BNL = open_BNL.scatter(2, place_BN1, False)
        return nats_BN, right_BN

    def draws(self, drawing: Drawing) -> int:
        """A number for each bit of each code."""
        return self.source.positions * len(self.vocabulary.factors)

    @without_autocast
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN, in each code `drawing.bit_steps` bits at a time; see Prior.sample."""
        check_drawing(self, drawing)
        positions = self.condition.prefix + self.source.positions
        cached = self.laid_out(partial(CachedBits, self.lm, self.bits, positions))
        uniform_BNL = uniform_BU.unflatten(1, (self.source.positions, -1))
        given_BNL = None if given_BN is None else self.vocabulary.digits(given_BN)
        how: dict[str, Any] = {"null": self.condition.null, "embedded": self.embedded, "given_BNL": given_BNL}
        return self.joined(decode_bits(cached, token_B, uniform_BNL, drawing, **how))


def check_drawing(prior: Prior, drawing: Drawing) -> None:
    """UserError for settings of `drawing` that a prior can't draw by: those of bits, or those of many codes."""
    if not isinstance(prior, BitsPrior):
        if drawing.bit_steps is not None:
            raise UserError(
                f"bit_steps={drawing.bit_steps} is for autoregressive priors with model.head=bits, but the prior is "
                f"{prior.kind} with model.head={prior.head}: leave it out"
            )
        return
    for name, none in (("top_k", 0), ("top_p", 1), ("min_p", 0)):
        if getattr(drawing, name) != none:
            raise UserError(
                f"{name}={getattr(drawing, name)} cuts off unlikely codes, but a prior with model.head=bits draws "
                f"bits: leave it at {none}, or set temperature"
            )
    bits = len(prior.vocabulary.factors)
    if drawing.bit_steps is not None and sum(drawing.bit_steps) != bits:
        raise UserError(f"bit_steps={drawing.bit_steps} must add up to the {bits} bits of a code: leave it out for all")
