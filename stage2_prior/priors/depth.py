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
from torch.nn import functional as F
from transformers import LlamaForCausalLM, LlamaModel

from stage1_tokenizer.kernels.cpu.linear import Product
from stage1_tokenizer.layers.precision import without_autocast
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import draw_codes, guide
from stage2_prior.priors.base import Prior, needs_vqloom
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
        """The codes of each place, code_BPG, as `logits` has them."""
        return code_BN.unflatten(1, (self.source.codebooks, -1)).transpose(1, 2)

    def logits(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        """Logits of every code, logits_BPGK float32, given the condition and the codes before it."""
        first_G = torch.tensor(self.vocabulary.first_tokens, device=code_BN.device)
        token_BPG = self.arranged(code_BN) + first_G
        embed = self.lm.get_input_embeddings()
        x_BPD = torch.cat([self.embedded(token_B), embed(token_BPG[:, :-1]).sum(2)], dim=1)
        y_BPD = self.lm(inputs_embeds=x_BPD, use_cache=False).last_hidden_state
        codes_BPgD = self.depth.get_input_embeddings()(token_BPG[..., :-1])
        x_RGD = torch.cat([y_BPD[:, :, None], codes_BPgD], dim=2).flatten(0, 1)
        y_RGD = self.depth.model(inputs_embeds=x_RGD, use_cache=False).last_hidden_state
        head_GKD = self.depth.lm_head.weight.unflatten(0, (self.source.codebooks, -1))
        return torch.einsum("rgd,gkd->rgk", y_RGD, head_GKD).unflatten(0, y_BPD.shape[:2]).float()

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code given those before it, and whether it is the likeliest."""
        nats_BPG, right_BPG = super().score(code_BN, token_B)
        return nats_BPG.transpose(1, 2).flatten(1), right_BPG.transpose(1, 2).flatten(1)

    @without_autocast
    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN place by place, which are the steps of schedules; see Prior.sample."""
        cached, guided = self.laid_out(lambda: CachedDepth(self)), drawing.guided_steps(self.places)
        input_B = torch.cat([token_B, torch.full_like(token_B, self.condition.null)]) if guided else token_B
        cached.start(len(input_B))
        uniform_BPG, code_BN = self.arranged(uniform_BU), torch.empty_like(uniform_BU, dtype=torch.int64)
        code_BPG = self.arranged(code_BN)  # a view: filled place by place
        given_BPG = None if given_BN is None else self.arranged(given_BN)
        x_BD = F.embedding(input_B, cached.embedding_VD)
        for place in range(self.places):
            if place == guided:
                x_BD = x_BD[: len(token_B)]
                cached.keep(len(token_B))
            strength = drawing.guidance_at(place, self.places) if place < guided else None
            temperature = drawing.temperature_at(place, self.places)
            y_BD, x_BD = cached.place(x_BD, place), torch.zeros_like(x_BD)
            for level in range(self.source.codebooks):
                logits_BK = cached.level(y_BD, level, strength)
                code_B = draw_codes(logits_BK, uniform_BPG[:, place, level], drawing, temperature)
                if given_BPG is not None:
                    code_B = torch.where(given_BPG[:, place, level] >= 0, given_BPG[:, place, level], code_B)
                code_BPG[:, place, level] = code_B
                summand_BD, y_BD = cached.embedded(code_B if strength is None else code_B.repeat(2), level)
                x_BD += summand_BD
        return code_BN


class CachedDepth:
    """Both Llamas with key-value caches; the one over a place's codes starts again at each place."""

    def __init__(self, prior: DepthPrior):
        books = prior.source.codebooks
        self.over_places = CachedBody(prior.lm, prior.places, prior.compiled_steps)
        self.over_codes = CachedBody(prior.depth.model, books, prior.compiled_steps)
        self.embedding_VD = prior.lm.embed_tokens.weight.detach()
        self.code_VD = prior.depth.model.embed_tokens.weight.detach()
        head_VD = prior.depth.lm_head.weight.detach() * self.over_codes.norm_D
        self.heads = [Product(head_KD) for head_KD in head_VD.chunk(books)]
        self.first_tokens = prior.vocabulary.first_tokens

    def start(self, rows: int) -> None:
        """Start `rows` new sequences (both guidance halves)."""
        self.over_places.start(rows)
        self.over_codes.start(rows)

    def keep(self, rows: int) -> None:
        """Continue with the first `rows` sequences only."""
        self.over_places.keep(rows)
        self.over_codes.keep(rows)

    def place(self, x_BD: Tensor, place: int) -> Tensor:
        """The small Llama's first input at a place; x_BD embeds the class token or the place before."""
        return self.over_places.extend(x_BD[:, None], place)[:, 0] * self.over_places.norm_D

    def level(self, x_BD: Tensor, level: int, strength: float | None) -> Tensor:
        """Logits_BK of a place's code number `level`; x_BD is from `place`, or from `embedded` of the code before.

        With a guidance strength x_BD has both guidance halves, and the logits are guided.
        """
        y_BD = self.over_codes.extend(x_BD[:, None], level)[:, 0]
        return self.heads[level](y_BD if strength is None else guide(y_BD, strength)).float()

    def embedded(self, code_B: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """What a code adds to its place's input, and the small Llama's input for it."""
        token_B = code_B + self.first_tokens[level]
        return F.embedding(token_B, self.embedding_VD), F.embedding(token_B, self.code_VD)
