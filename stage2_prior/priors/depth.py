"""The depth prior, for codes of several codebooks at each place (residual, product): the RQ-Transformer.

A stock Llama runs over the places, row by row; its input for a place is the sum of the embeddings of its G codes. Its
output at a place is the first input of a second, small stock Llama, which runs over that place's codes.

p(codes | class) = Π_p Π_g p(code_pg | class, codes of places < p, codes < g of p). (Lee et al. 2022, eq. 9 to 12)

Codes lie as the tokenizer gives them, code_BN = (G, h, w) in one row. Shapes: B batch, P places (h·w), G codebooks,
N = G·P codes, R = B·P rows of the second Llama, K codes of a codebook, D width.
"""

from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel

from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.depth import CachedDepth, decode_places
from stage2_prior.priors.base import Prior, needs_vqloom
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.predicted import Predicted
from stage2_prior.priors.stock import Work, llama_settings, stock_model


class DepthPrior(Prior):
    """Places one after the other, and the codes of each one after the other."""

    kind = "depth"
    one_by_one = True
    stock = "AutoModel"
    form = "levels"
    loaders: ClassVar = {"depth": partial(stock_model, "AutoModelForCausalLM")}
    assumed_codes: ClassVar[dict[str, Any]] = {"codebooks": 4}
    in_order = True

    depth: Any

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> Self:
        """A prior with fresh weights, from torch's generator."""
        books = source.codebooks
        lm = LlamaModel(llama_settings(config, vocabulary.size, source.positions // books))
        small = llama_settings(config, vocabulary.codes, books, num_hidden_layers=config.depth_layers)
        return cls(lm, vocabulary, source, depth=LlamaForCausalLM(small))

    @property
    def places(self) -> int:
        """P, the places of a picture."""
        return self.source.positions // self.source.codebooks

    def work(self) -> list[Work]:
        """A place's work is shared by its G codes; each code is multiplied by its own codebook's share of the head."""
        books = self.source.codebooks
        idle = (books - 1) * self.vocabulary.codebook_size * self.depth.config.hidden_size
        return [Work(self.lm, 1 / books, self.places / 2), Work(self.depth, 1.0, books / 2, idle)]

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """A place's codes share the first transformer's layers."""
        return config.layers / source.codebooks + config.depth_layers

    def usage(self, name: str) -> str:
        """Plain transformers load both Llamas, which take turns in sampling."""
        why = "a transformer over the places and one over the codes of each place take turns"
        stock = f"`{self.stock}.from_pretrained` loads the one in `{name}`, `AutoModelForCausalLM` the one in `depth/`"
        return needs_vqloom(why, stock)

    def arranged(self, code_BN: Tensor) -> Tensor:
        """The codes of each place, code_BPG, as `predicted` has them."""
        return code_BN.unflatten(1, (self.source.codebooks, -1)).transpose(1, 2)

    def predicted(self, code_BN: Tensor, token_B: Tensor) -> Predicted:
        """What is predicted of every code, y_BPGD, given the condition and the codes before it."""
        books, codes = self.source.codebooks, self.vocabulary.codebook_size
        first_G = torch.arange(books, device=code_BN.device) * codes  # vocabulary.first_tokens
        token_BPG = self.arranged(code_BN) + first_G
        embed = self.lm.get_input_embeddings()
        x_BPD = torch.cat([self.embedded(token_B), embed(token_BPG[:, :-1]).sum(2)], dim=1)
        y_BPD = through_layers(self.lm, x_BPD)
        codes_BPgD = self.depth.get_input_embeddings()(token_BPG[..., :-1])
        x_RGD = torch.cat([y_BPD[:, :, None], codes_BPgD], dim=2).flatten(0, 1)
        y_RGD = through_layers(self.depth.model, x_RGD)
        return Predicted(y_RGD.unflatten(0, y_BPD.shape[:2]), self.depth.lm_head, codes, books)

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code given those before it, and whether it is the likeliest."""
        nats_BPG, right_BPG = super().score(code_BN, token_B)
        return nats_BPG.transpose(1, 2).flatten(1), right_BPG.transpose(1, 2).flatten(1)

    @without_autocast
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN place by place, which are the steps of schedules; see Prior.sample."""
        first, compiled = self.vocabulary.first_tokens, self.compiled_steps
        cached = self.laid_out(lambda: CachedDepth(self.lm, self.depth, self.places, first, compiled))
        return decode_places(cached, token_B, uniform_BU, drawing, null=self.condition.null, given_BN=given_BN)
