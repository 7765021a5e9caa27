"""The depth prior, for codes of several codebooks at each place (residual, product): the RQ-Transformer.

A stock Llama runs over the places, row by row; its input for a place is the sum of the embeddings of its G codes. Its
output at a place is the first input of a second, small stock Llama, which runs over that place's codes.

p(codes | class) = Π_p Π_g p(code_pg | class, codes of places < p, codes < g of p). (Lee et al. 2022, eq. 9 to 12)

Codes lie as the tokenizer gives them, code_BN = (G, h, w) in one row. Shapes: B batch, P places (h·w), G codebooks,
N = G·P codes, R = B·P rows of the second Llama, K codes of a codebook, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import Product
from stage1_tokenizer.quantizers import Quantizer
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.config.model import PriorModelConfig
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import draw_codes, guide
from stage2_prior.priors.base import Prior, needs_vqloom, stock_model
from stage2_prior.priors.llama import llama_settings
from stage2_prior.priors.losses import code_losses
from stage2_prior.priors.work import Work

DEPTH = "depth"
"""Folder of the second Llama in an export."""


class DepthPrior(Prior):
    """Places one after the other, and the codes of each one after the other."""

    kind = "depth"
    one_by_one = True
    stock = "AutoModel"
    form = "levels"
    assumed_codes: ClassVar[dict[str, Any]] = {"codebooks": 4}
    in_order = True

    def __init__(self, lm: Any, depth: Any, vocabulary: Vocabulary, source: CodeSource):
        """`lm` runs over the places, `depth` over the codes of each."""
        super().__init__(lm, vocabulary, source)
        self.depth = depth
        self.places = source.positions // source.codebooks

    @classmethod
    def build(
        cls, config: PriorModelConfig, vocabulary: Vocabulary, source: CodeSource, quantizer: Quantizer | None = None
    ) -> DepthPrior:
        """A prior with fresh weights, from torch's generator."""
        from transformers import LlamaForCausalLM, LlamaModel

        books = source.codebooks
        lm = LlamaModel(llama_settings(config, vocabulary.size, source.positions // books))
        small = llama_settings(config, vocabulary.codes, books, num_hidden_layers=config.depth_layers)
        return cls(lm, LlamaForCausalLM(small), vocabulary, source)

    @property
    def exported(self) -> dict[str, nn.Module]:
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

    @classmethod
    def layers_per_code(cls, config: PriorModelConfig, source: CodeSource) -> float:
        """A place's codes share the first transformer's layers."""
        return config.layers / source.codebooks + config.depth_layers

    def usage(self, name: str) -> str:
        """Plain transformers load both Llamas, which take turns in sampling."""
        why = "a transformer over the places and one over the codes of each place take turns"
        stock = f"`{self.stock}.from_pretrained` loads the one in `{name}`, `AutoModelForCausalLM` the one in `depth/`"
        return needs_vqloom(why, stock)

    def by_place(self, code_BN: Tensor) -> Tensor:
        """The codes of each place, code_BPG."""
        return code_BN.unflatten(1, (self.source.codebooks, -1)).transpose(1, 2)

    def logits(self, code_BN: Tensor, token_B: Tensor) -> Tensor:
        """Logits of every code, logits_BPGK float32, given the condition and the codes before it."""
        first_G = torch.tensor(self.vocabulary.first_tokens, device=code_BN.device)
        token_BPG = self.by_place(code_BN) + first_G
        embed = self.lm.get_input_embeddings()
        x_BPD = torch.cat([self.embedded(token_B), embed(token_BPG[:, :-1]).sum(2)], dim=1)
        y_BPD = self.lm(inputs_embeds=x_BPD, use_cache=False).last_hidden_state
        codes_BPgD = self.depth.get_input_embeddings()(token_BPG[..., :-1])
        x_RGD = torch.cat([y_BPD[:, :, None], codes_BPgD], dim=2).flatten(0, 1)
        y_RGD = self.depth.model(inputs_embeds=x_RGD, use_cache=False).last_hidden_state
        head_GKD = self.depth.lm_head.weight.unflatten(0, (self.source.codebooks, -1))
        return torch.einsum("rgd,gkd->rgk", y_RGD, head_GKD).unflatten(0, y_BPD.shape[:2]).float()

    def forward(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss and the mean nats per code; conditions and noise are random."""
        logits_BPGK = self.logits(self.noisy(code_BN), self.dropped(token_B))
        loss_BPG, nats_BPG = code_losses(logits_BPGK, self.by_place(code_BN), self.label_smoothing, self.z_loss)
        return loss_BPG.mean(), nats_BPG.mean()

    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code given those before it, and whether it is the likeliest."""
        logits_BPGK, code_BPG = self.logits(code_BN, token_B), self.by_place(code_BN)
        nats_BPG, right_BPG = code_losses(logits_BPGK, code_BPG, 0, 0)[1], logits_BPGK.argmax(-1) == code_BPG
        return nats_BPG.transpose(1, 2).flatten(1), right_BPG.float().transpose(1, 2).flatten(1)

    @torch.inference_mode()
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN place by place, which are the steps of schedules; see Prior.sample."""
        cached, batch, guided = (
            self.laid_out(lambda: CachedDepth(self)),
            len(token_B),
            drawing.guided_steps(self.places),
        )
        input_B = torch.cat([token_B, torch.full_like(token_B, self.condition.null)]) if guided else token_B
        cached.start(len(input_B))
        uniform_BPG, code_BN = self.by_place(uniform_BU), torch.empty_like(uniform_BU, dtype=torch.int64)
        code_BPG = self.by_place(code_BN)  # a view: filled place by place
        given_BPG = None if given_BN is None else self.by_place(given_BN)
        x_BD = F.embedding(input_B, cached.embedding_VD)
        for place in range(self.places):
            if place == guided:
                x_BD = x_BD[:batch]
                cached.keep(batch)
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

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary, source: CodeSource) -> DepthPrior:
        """Both stock models in a folder, float32, on the CPU, in evaluation mode."""
        depth = stock_model("AutoModelForCausalLM", folder / DEPTH)
        return cls(stock_model(cls.stock, folder), depth, vocabulary, source).eval()


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
