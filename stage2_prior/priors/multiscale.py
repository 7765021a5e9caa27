"""The multiscale prior, for next-scale codes: all codes of a scale at once, given all coarser scales (VAR).

A stock Llama over the places of all scales, coarsest first, each row by row. A place hears what the tokenizer makes of
all coarser scales' codes, shrunk to its scale, and the class (stage2_prior.priors.pyramid); its code is read off its
own output. Places attend to all places of their own and of coarser scales.

p(codes | class) = Π_s p(codes of scale s | class, codes of scales < s), the codes of a scale independent of each other.
(Tian et al. 2024, section 3.2. There AdaLN tells the class in every layer; here it is added to every place's embedding,
so that the transformer stays a stock one.)

The head's weights are the embeddings' (tied): of these, only those of the classes would be heard otherwise.
Shapes: B batch, S scales, M codes of one, N of all, K codes of the codebook, D width.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import draw_codes, mixed
from stage2_prior.generation.products import Product
from stage2_prior.priors.base import Prior, Work, stock_model
from stage2_prior.priors.llama import llama_settings
from stage2_prior.priors.losses import code_losses
from stage2_prior.priors.pyramid import Pyramid

if TYPE_CHECKING:
    from stage1_tokenizer.quantizers import Quantizer
    from stage2_prior.config.drawing import Drawing
    from stage2_prior.config.model import PriorModelConfig

PYRAMID = "pyramid"
"""Folder of what the transformer hears in an export."""


class MultiscalePrior(Prior):
    """Scales one after the other, all codes of a scale at once."""

    kind = "multiscale"
    stock = "AutoModelForCausalLM"
    form = "scales"

    def __init__(self, lm: Any, pyramid: Pyramid, vocabulary: Vocabulary, source: CodeSource):
        """`lm` hears what `pyramid` makes of the codes."""
        super().__init__(lm, vocabulary, source)
        self.pyramid = pyramid

    @classmethod
    def build(
        cls,
        config: PriorModelConfig,
        vocabulary: Vocabulary,
        source: CodeSource,
        quantizer: Quantizer | None = None,
    ) -> MultiscalePrior:
        """A prior with fresh weights, from torch's generator, that hears what `quantizer` makes of the codes."""
        from transformers import LlamaForCausalLM

        from stage1_tokenizer.quantizers import MultiscaleQuantizer

        assert isinstance(quantizer, MultiscaleQuantizer), "it needs its tokenizer's quantizer"
        lm = LlamaForCausalLM(llama_settings(config, vocabulary.size, source.positions, tie_word_embeddings=True))
        return cls(lm, Pyramid(quantizer, config.width), vocabulary, source)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The Llama, and in a folder of its own what it hears."""
        return {"": self.lm, PYRAMID: self.pyramid}

    def work(self) -> list[Work]:
        """Places attend to their own and to coarser scales."""
        sizes = self.pyramid.sizes
        attended = sum(size * end for size, end in zip(sizes, itertools.accumulate(sizes), strict=True))
        return [Work(self.lm, 1.0, attended / sum(sizes))]

    def logits(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        """Logits of every code, logits_BNK float32, from the class (or null) tokens and the coarser scales' codes."""
        x_BND = self.pyramid(code_BN) + self.lm.get_input_embeddings()(token_B)[:, None]
        scale_N = torch.arange(len(self.pyramid.sizes)).repeat_interleave(torch.tensor(self.pyramid.sizes))
        heard_11NN = (scale_N[:, None] >= scale_N).to(code_BN.device)[None, None]
        logits_BNV = self.lm(inputs_embeds=x_BND, attention_mask=heard_11NN, use_cache=False).logits
        return logits_BNV[..., : self.vocabulary.codebook_size].float()

    def forward(self, code_BN: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss and the mean nats per code; by `chance` classes are dropped and codes disturbed."""
        logits_BNK = self.logits(self.disturbed(code_BN), self.dropped_tokens(label_B))
        loss_BN, nats_BN = code_losses(logits_BNK, code_BN, self.label_smoothing, self.z_loss)
        return loss_BN.mean(), nats_BN.mean()

    def judge(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code given the coarser scales, and whether it is the likeliest."""
        logits_BNK = self.logits(code_BN, token_B)
        return code_losses(logits_BNK, code_BN, 0, 0)[1], (logits_BNK.argmax(-1) == code_BN).float()

    def draws(self, drawing: Drawing) -> int:
        """One random number for each code."""
        return self.source.positions

    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN for class (or null) tokens; schedules go by the scale. See Prior.sample."""
        cached, batch, sizes = self.ready(lambda: CachedScales(self)), len(token_B), self.pyramid.sizes
        halves, first, total = drawing.guided(len(sizes)), 0, torch.zeros(())
        input_B = torch.cat([token_B, torch.full_like(token_B, self.vocabulary.null)]) if halves else token_B
        cached.start(input_B)
        parts: list[Tensor] = []
        for number, size in enumerate(sizes):
            if number == halves:
                cached.keep(batch)
            scale = drawing.scale(number, len(sizes)) if number < halves else None
            logits_BMK = cached.scale(total if number else None, number, scale)
            heat, uniform_X = drawing.heat(number, len(sizes)), uniform_BU[:, first : first + size].reshape(-1)
            code_BM = draw_codes(logits_BMK.flatten(0, 1), uniform_X, drawing, heat).view(batch, size)
            if given_BN is not None:
                given_BM = given_BN[:, first : first + size]
                code_BM = torch.where(given_BM >= 0, given_BM, code_BM)
            parts.append(code_BM)
            first += size
            if number + 1 < len(sizes):
                total = self.pyramid.add(total, number, code_BM)
        return torch.cat(parts, dim=1)

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary, source: CodeSource) -> MultiscalePrior:
        """The stock model in a folder and what it hears, float32, on the CPU, in evaluation mode."""
        lm, pyramid = stock_model(cls.stock, folder), Pyramid.from_pretrained(folder / PYRAMID)
        return cls(lm, pyramid, vocabulary, source).eval()


class CachedScales:
    """The Llama over its cache, scale by scale."""

    def __init__(self, prior: MultiscalePrior):
        self.pyramid = prior.pyramid
        self.body = CachedBody(prior.lm.model, prior.source.positions)
        self.embedding_VD = prior.lm.model.embed_tokens.weight.detach()
        self.head_KD = Product(self.embedding_VD[: prior.vocabulary.codebook_size] * self.body.norm_D)

    def start(self, token_B: Tensor) -> None:
        """Get ready for new sequences of these classes."""
        self.class_BD = F.embedding(token_B, self.embedding_VD)
        self.body.start(len(token_B))

    def keep(self, rows: int) -> None:
        """Go on with the first `rows` sequences alone."""
        self.class_BD = self.class_BD[:rows]
        self.body.keep(rows)

    def scale(self, total_BEhw: Tensor | None, number: int, scale: float | None) -> Tensor:
        """Logits_BMK of a scale's codes, from the latents of the coarser ones (None: there are none).

        With a guidance scale both halves of the sequences hear them, and the logits are guided.
        """
        rows = len(self.class_BD)
        x_BMD = self.pyramid.at(total_BEhw, number, rows if scale is None else rows // 2)
        x_BMD = (x_BMD if scale is None else x_BMD.repeat(2, 1, 1)) + self.class_BD[:, None]
        y_BMD = self.body.hear(x_BMD, sum(self.pyramid.sizes[:number]))
        y_BMD = y_BMD if scale is None else mixed(y_BMD, scale)
        return self.head_KD(y_BMD.flatten(0, 1)).unflatten(0, y_BMD.shape[:2]).float()
