"""The depth prior, for codes of several codebooks at each place (residual, product): the RQ-Transformer.

A stock Llama goes over the places, row by row: what it hears of a place is the sum of the embeddings of its G codes.
What it says at a place is the first thing that a second, small stock Llama hears, which goes over the place's codes.

p(codes | class) = Π_p Π_g p(code_pg | class, codes of places < p, codes < g of p). (Lee et al. 2022, eq. 9 to 12)

Codes lie as the tokenizer gives them, code_BN = (G, h, w) in one row. Shapes: B batch, P places (h·w), G codebooks,
N = G·P codes, R = B·P rows of the second Llama, K codes of a codebook, D width.
"""

from __future__ import annotations

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

if TYPE_CHECKING:
    from stage1_tokenizer.quantizers import Quantizer
    from stage2_prior.config.drawing import Drawing
    from stage2_prior.config.model import PriorModelConfig

DEPTH = "depth"
"""Folder of the second Llama in an export."""


class DepthPrior(Prior):
    """Places one after the other, and the codes of each one after the other."""

    kind = "depth"
    one_by_one = True
    stock = "AutoModel"
    form = "levels"
    in_order = True

    def __init__(self, lm: Any, depth: Any, vocabulary: Vocabulary, source: CodeSource):
        """`lm` goes over the places, `depth` over the codes of each."""
        super().__init__(lm, vocabulary, source)
        self.depth = depth
        self.places = source.positions // source.codebooks

    @classmethod
    def build(
        cls,
        config: PriorModelConfig,
        vocabulary: Vocabulary,
        source: CodeSource,
        quantizer: Quantizer | None = None,
    ) -> DepthPrior:
        """A prior with fresh weights, from torch's generator."""
        from transformers import LlamaForCausalLM, LlamaModel

        books = source.codebooks
        lm = LlamaModel(llama_settings(config, vocabulary.size, source.positions // books))
        small = llama_settings(config, vocabulary.codes, books, num_hidden_layers=config.depth_layers)
        return cls(lm, LlamaForCausalLM(small), vocabulary, source)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The Llama over the places, and in a folder of its own the one over the codes of a place."""
        return {"": self.lm, DEPTH: self.depth}

    @property
    def transformers(self) -> list[nn.Module]:
        """Both Llamas."""
        return [self.lm, self.depth]

    def work(self) -> list[Work]:
        """A place's work is shared by its G codes; each code is multiplied by its own codebook's share of the head."""
        books = self.source.codebooks
        idle = (books - 1) * self.vocabulary.codebook_size * self.depth.config.hidden_size
        return [Work(self.lm, 1 / books, self.places / 2), Work(self.depth, 1.0, books / 2, idle)]

    def by_place(self, code_BN: Tensor) -> Tensor:
        """The codes of each place, code_BPG."""
        return code_BN.unflatten(1, (self.source.codebooks, -1)).transpose(1, 2)

    def logits(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        """Logits of every code, logits_BPGK float32, from the class (or null) tokens and the codes before it."""
        first_G = torch.tensor(self.vocabulary.first_tokens, device=code_BN.device)
        token_BPG = self.by_place(code_BN) + first_G
        embed = self.lm.get_input_embeddings()
        before_BPD = embed(token_BPG[:, :-1]).sum(2)
        x_BPD = torch.cat([embed(token_B)[:, None], before_BPD], dim=1)
        y_BPD = self.lm(inputs_embeds=x_BPD, use_cache=False).last_hidden_state
        codes_BPgD = self.depth.get_input_embeddings()(token_BPG[..., :-1])
        x_RGD = torch.cat([y_BPD[:, :, None], codes_BPgD], dim=2).flatten(0, 1)
        y_RGD = self.depth.model(inputs_embeds=x_RGD, use_cache=False).last_hidden_state
        head_GKD = self.depth.lm_head.weight.unflatten(0, (self.source.codebooks, -1))
        return torch.einsum("rgd,gkd->rgk", y_RGD, head_GKD).unflatten(0, y_BPD.shape[:2]).float()

    def forward(self, code_BN: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss and the mean nats per code; by `chance` classes are dropped and codes disturbed."""
        logits_BPGK = self.logits(self.disturbed(code_BN), self.dropped_tokens(label_B))
        loss_BPG, nats_BPG = code_losses(logits_BPGK, self.by_place(code_BN), self.label_smoothing, self.z_loss)
        return loss_BPG.mean(), nats_BPG.mean()

    def judge(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code given those before it, and whether it is the likeliest."""
        logits_BPGK, code_BPG = self.logits(code_BN, token_B), self.by_place(code_BN)
        nats_BPG, right_BPG = code_losses(logits_BPGK, code_BPG, 0, 0)[1], logits_BPGK.argmax(-1) == code_BPG
        return nats_BPG.transpose(1, 2).flatten(1), right_BPG.float().transpose(1, 2).flatten(1)

    def draws(self, drawing: Drawing) -> int:
        """One random number for each code."""
        return self.source.positions

    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN for class (or null) tokens; schedules go by the place. See Prior.sample."""
        cached, batch, halves = self.ready(lambda: CachedDepth(self)), len(token_B), drawing.guided(self.places)
        input_B = torch.cat([token_B, torch.full_like(token_B, self.vocabulary.null)]) if halves else token_B
        cached.start(len(input_B))
        uniform_BPG, code_BN = self.by_place(uniform_BU), torch.empty_like(uniform_BU, dtype=torch.int64)
        code_BPG = self.by_place(code_BN)  # a view: filled place by place
        given_BPG = None if given_BN is None else self.by_place(given_BN)
        x_BD = F.embedding(input_B, cached.embedding_VD)
        for place in range(self.places):
            if place == halves:
                x_BD = x_BD[:batch]
                cached.keep(batch)
            scale = drawing.scale(place, self.places) if place < halves else None
            y_BD, x_BD = cached.place(x_BD, place), torch.zeros_like(x_BD)
            for level in range(self.source.codebooks):
                logits_BK = cached.level(y_BD, level, scale)
                heat = drawing.heat(place, self.places)
                code_B = draw_codes(logits_BK, uniform_BPG[:, place, level], drawing, heat)
                if given_BPG is not None:
                    code_B = torch.where(given_BPG[:, place, level] >= 0, given_BPG[:, place, level], code_B)
                code_BPG[:, place, level] = code_B
                heard_B = code_B if scale is None else code_B.repeat(2)
                heard_BD, y_BD = cached.embedded(heard_B, level)
                x_BD += heard_BD
        return code_BN

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary, source: CodeSource) -> DepthPrior:
        """Both stock models in a folder, float32, on the CPU, in evaluation mode."""
        depth = stock_model("AutoModelForCausalLM", folder / DEPTH)
        return cls(stock_model(cls.stock, folder), depth, vocabulary, source).eval()


class CachedDepth:
    """Both Llamas over their caches: that of a place's codes is begun anew at each place."""

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
        """Get ready for `rows` new sequences (both guidance halves)."""
        self.over_places.start(rows)
        self.over_codes.start(rows)

    def keep(self, rows: int) -> None:
        """Go on with the first `rows` sequences alone."""
        self.over_places.keep(rows)
        self.over_codes.keep(rows)

    def place(self, x_BD: Tensor, place: int) -> Tensor:
        """What the small Llama hears first at a place; x_BD is the class token's or the place before it's embedding."""
        return self.over_places.hear(x_BD[:, None], place)[:, 0] * self.over_places.norm_D

    def level(self, x_BD: Tensor, level: int, scale: float | None) -> Tensor:
        """Logits_BK of a place's code number `level`; x_BD is what `place`, or of the code before it `embedded` gave.

        With a scale x_BD has both guidance halves, and the logits are guided.
        """
        y_BD = self.over_codes.hear(x_BD[:, None], level)[:, 0]
        return self.heads[level](y_BD if scale is None else mixed(y_BD, scale)).float()

    def embedded(self, code_B: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """What a code adds to what is heard of its place, and what the small Llama hears of it."""
        token_B = code_B + self.first_tokens[level]
        return F.embedding(token_B, self.embedding_VD), F.embedding(token_B, self.code_VD)
