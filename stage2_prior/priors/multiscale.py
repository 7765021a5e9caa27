"""The multiscale prior, for next-scale codes: all codes of a scale at once, given all coarser scales (VAR).

A stock Llama over the places of all scales, coarsest first, each scale row by row. A place's input is the latent that
the tokenizer sums up from all coarser scales' codes, resized to its scale, plus the class: stage2_prior.priors.pyramid.
Its code is predicted at its own output. Places attend to all places of their own and of coarser scales.

p(codes | class) = Π_s p(codes of scale s | class, codes of scales < s), the codes of a scale independent of each other.
(Tian et al. 2024, section 3.2. There AdaLN feeds the class to every layer; here it is added to every place's embedding,
so that the transformer stays a stock one.)

The head's weights are tied to the embeddings, of which only the classes' are inputs.
Shapes: B batch, S scales, M codes of one, N of all, K codes of the codebook, D width.
"""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import Product
from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import MultiscaleQuantizer, Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import draw_codes, guide
from stage2_prior.priors.base import Prior, needs_vqloom
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.predicted import Predicted
from stage2_prior.priors.pyramid import Pyramid
from stage2_prior.priors.stock import Work, llama_settings, with_head


class MultiscalePrior(Prior):
    """Scales one after the other, all codes of a scale at once."""

    kind = "multiscale"
    stock = "AutoModelForCausalLM"
    forms = ("scales",)
    loaders: ClassVar = {"pyramid": Pyramid.from_pretrained}
    assumed_codes: ClassVar[dict[str, Any]] = {"scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)}

    pyramid: Pyramid

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator, and a frozen copy of `quantizer`."""
        assert isinstance(quantizer, MultiscaleQuantizer), "it needs its tokenizer's quantizer"
        lm = with_head(llama_settings(config, vocabulary.size, source.positions, tie_word_embeddings=True))
        return cls(lm, vocabulary, source, pyramid=Pyramid(quantizer, config.width))

    def work(self) -> list[Work]:
        """Places attend to their own and to coarser scales."""
        sizes = self.pyramid.sizes
        attended = sum(size * end for size, end in zip(sizes, itertools.accumulate(sizes), strict=True))
        return [Work(self.lm, 1.0, attended / sum(sizes))]

    def usage(self, name: str) -> str:
        """Plain transformers load the Llama; its inputs are the pyramid's."""
        why = "the transformer's inputs come from the tokenizer's codebook and convolutions, copied into `pyramid/`"
        return needs_vqloom(why, f'`{self.stock}.from_pretrained("{name}")` loads it')

    def open_codes(self, hole_HW: Tensor) -> Tensor:
        """Of each scale the codes with more than half of their place in the hole."""
        hole_11HW = hole_HW.float()[None, None]
        return torch.cat([F.adaptive_avg_pool2d(hole_11HW, side).flatten() > 0.5 for side in self.source.scales])

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Predicted:
        """What is predicted of every code, given the condition and the coarser scales' codes."""
        return self._predicted(self.pyramid.seen(code_BN), token_B)

    def losses(self, read: Sequence[Tensor], token_B: Tensor, code_BN: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As of any prior, where `read` is what the pyramid has seen of the codes."""
        return self._predicted(read, token_B).losses(code_BN, self.label_smoothing, self.z_loss)

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """As of any prior. The tokenizer's own sums, which take IEEE float32, are no part of what is compiled."""
        token_B, read_BN = self.dropped(token_B), self.noisy(code_BN)
        loss_BN, nats_BN = self.losses(self.pyramid.seen(read_BN), token_B, code_BN)
        return loss_BN.mean(), nats_BN.mean()

    def _predicted(self, read: Sequence[Tensor], token_B: Tensor) -> Predicted:
        x_BND = self.pyramid.embedded(read, len(token_B)) + self.embedded(token_B)
        ends = tuple(itertools.accumulate(self.pyramid.sizes))
        y_BND = through_layers(self.lm.model, x_BND, stretch_T=self.pyramid.scale_N, ends=ends)
        return Predicted(y_BND, self.lm.lm_head, self.vocabulary.codebook_size)

    @without_autocast
    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN scale by scale, which are the steps of schedules; see Prior.sample."""
        cached, batch, sizes = self.laid_out(lambda: CachedScales(self)), len(token_B), self.pyramid.sizes
        guided, first, total = drawing.guided_steps(len(sizes)), 0, torch.zeros((), device=token_B.device)
        input_B = torch.cat([token_B, torch.full_like(token_B, self.condition.null)]) if guided else token_B
        cached.start(input_B)
        codes: list[Tensor] = []
        for number, size in enumerate(sizes):
            if number == guided:
                cached.keep(batch)
            strength = drawing.guidance_at(number, len(sizes)) if number < guided else None
            logits_BMK = cached.logits(total if number else None, number, strength)
            temperature = drawing.temperature_at(number, len(sizes))
            uniform_X = uniform_BU[:, first : first + size].reshape(-1)
            code_BM = draw_codes(logits_BMK.flatten(0, 1), uniform_X, drawing, temperature).view(batch, size)
            if given_BN is not None:
                given_BM = given_BN[:, first : first + size]
                code_BM = torch.where(given_BM >= 0, given_BM, code_BM)
            codes.append(code_BM)
            first += size
            if number + 1 < len(sizes):
                total = self.pyramid.add(total, number, code_BM)
        return torch.cat(codes, dim=1)


class CachedScales:
    """The Llama with a key-value cache, scale by scale."""

    def __init__(self, prior: MultiscalePrior):
        self.pyramid = prior.pyramid
        self.body = CachedBody(prior.lm.model, prior.source.positions)
        self.embedding_VD = prior.lm.model.embed_tokens.weight.detach()
        self.head_KD = Product(self.embedding_VD[: prior.vocabulary.codebook_size] * self.body.norm_D)

    def start(self, token_B: Tensor) -> None:
        """Start new sequences of these classes."""
        self.class_BD = F.embedding(token_B, self.embedding_VD)
        self.body.start(len(token_B))

    def keep(self, rows: int) -> None:
        """Continue with the first `rows` sequences only."""
        self.class_BD = self.class_BD[:rows]
        self.body.keep(rows)

    def logits(self, total_BEhw: Tensor | None, number: int, strength: float | None) -> Tensor:
        """Logits_BMK of scale `number`, from the latents of the coarser ones (None: there are none).

        With a guidance strength the sequences are both guidance halves, and the logits are guided.
        """
        halves = 1 if strength is None else 2
        x_BMD = self.pyramid.at(total_BEhw, number, len(self.class_BD) // halves)
        x_BMD = x_BMD.repeat(halves, 1, 1) + self.class_BD[:, None]
        y_BMD = self.body.extend(x_BMD, sum(self.pyramid.sizes[:number]))
        y_BMD = y_BMD if strength is None else guide(y_BMD, strength)
        return self.head_KD(y_BMD.flatten(0, 1)).unflatten(0, y_BMD.shape[:2]).float()
