"""Drawing codes from a depth prior: two Llamas with key-value caches, both guidance halves in one batch.

Shapes: B pictures, P places, G codebooks, N = G·P codes, K codes of a codebook, D width, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import Product
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.graphs import Capture, Kept, Steps, capture_for
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import cut_offs, draw_codes, guide
from stage2_prior.generation.one_token import OneToken


class CachedDepth:
    """Both Llamas with key-value caches; the one over a place's codes starts again at each place."""

    def __init__(self, lm: Any, depth: Any, places: int, first_tokens: Sequence[int], compiled: bool = False):
        """`lm` is the stock model over the places, `depth` the one over a place's codes.

        `first_tokens` are the codebooks' first tokens; `compiled` is for captured steps.
        """
        books = len(first_tokens)
        self.places, self.first_tokens, self.compiled, self.kept = places, first_tokens, compiled, Kept()
        self.over_places, self.over_codes = CachedBody(lm, places), CachedBody(depth.model, books)
        self.embedding_VD = lm.embed_tokens.weight.detach()
        self.code_VD = depth.model.embed_tokens.weight.detach()
        head_VD = depth.lm_head.weight.detach() * self.over_codes.norm_D
        self.heads = [Product(head_KD) for head_KD in head_VD.chunk(books)]

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


class PlaceSteps(Steps):
    """The places of a depth prior, all codes of one to a step; positions are places."""

    def __init__(self, cached: CachedDepth, rows: int, batch: int, rules: Drawing, capture: Capture):
        """For `rows` sequences, twice the batch with guidance."""
        super().__init__(cached.over_places, batch, cached.places, rules, capture, cached.compiled)
        self.cached, device = cached, self.position_1.device
        self.over_codes = OneToken(cached.over_codes, cached.compiled)
        self.code_BGP = torch.zeros(batch, len(cached.heads), cached.places, dtype=torch.int64, device=device)
        self.x_XD = torch.zeros_like(cached.embedding_VD[:1]).repeat(rows, 1)
        """The next place's input."""
        self._codes_cache = cached.over_codes.cache_L2CTd

    @property
    def stale(self) -> bool:
        """Whether one of the caches is another one now."""
        return super().stale or self._codes_cache is not self.cached.over_codes.cache_L2CTd

    def step(self, guided: bool, visible: int) -> None:
        """See Steps; the small Llama's places are the same in every step."""
        assert self.uniform is not None, "begin() comes first"
        x_XD = self.x_XD if guided else self.x_XD[: self.batch]
        y_XD = self.one_token(x_XD, self.position_1, visible) * self.cached.over_places.norm_D
        next_XD, codes = torch.zeros_like(x_XD), []
        uniform_BG = self.uniform.index_select(2, self.position_1)[..., 0]
        given_BG = None if self.given is None else self.given.index_select(2, self.position_1)[..., 0]
        for level, head_KD in enumerate(self.cached.heads):
            place_1 = self.over_codes.place_T[level : level + 1]
            z_XD = self.over_codes(y_XD, place_1, level + 1, last=True)
            given_B = None if given_BG is None else given_BG[:, level]
            codes.append(self.choose(z_XD, head_KD, guided, uniform_BG[:, level], given_B))
            summand_XD, y_XD = self.cached.embedded(codes[-1].repeat(2) if guided else codes[-1], level)
            next_XD = next_XD + summand_XD
        self.code_BGP.index_copy_(2, self.position_1, torch.stack(codes, dim=1)[..., None])
        x_XD.copy_(next_XD)
        self.go_on()


@torch.inference_mode()
def decode_places(
    cached: CachedDepth,
    token_B: Tensor,
    uniform_BN: Tensor,
    drawing: Drawing,
    *,
    null: int,
    given_BN: Tensor | None = None,
) -> Tensor:
    """Draw whole grids, code_BN int64, place by place, which are the steps of schedules.

    As stage2_prior.generation.autoregressive.decode; codes lie as (G, P) in a row.
    """
    batch, guided, books = len(token_B), drawing.guided_steps(cached.places), len(cached.heads)
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided else token_B
    cached.start(len(input_B))
    x_XD = F.embedding(input_B, cached.embedding_VD)
    uniform_BGP = uniform_BN.unflatten(1, (books, -1))
    given_BGP = None if given_BN is None else given_BN.unflatten(1, (books, -1))
    if (capture := capture_for(token_B.device)) is None:
        return _place_by_place(cached, x_XD, uniform_BGP, drawing, guided, given_BGP).flatten(1)
    kind = batch, len(input_B), given_BN is None, cut_offs(drawing)
    steps = cached.kept.steps(kind, lambda: PlaceSteps(cached, len(input_B), batch, drawing, capture))
    steps.begin(0, guided, uniform_BGP, drawing, given_BGP)
    steps.x_XD.copy_(x_XD)
    steps.replay(0)
    return steps.code_BGP.flatten(1).clone()


def _place_by_place(
    cached: CachedDepth,
    x_XD: Tensor,
    uniform_BGP: Tensor,
    drawing: Drawing,
    guided: int,
    given_BGP: Tensor | None,
) -> Tensor:
    """The codes code_BGP of `decode_places`, from the first place's input x_XD, without captured steps."""
    code_BGP = torch.empty_like(uniform_BGP, dtype=torch.int64)
    for place in range(cached.places):
        if place == guided:
            x_XD = x_XD[: len(code_BGP)]
            cached.keep(len(code_BGP))
        strength = drawing.guidance_at(place, cached.places) if place < guided else None
        temperature = drawing.temperature_at(place, cached.places)
        y_XD, x_XD = cached.place(x_XD, place), torch.zeros_like(x_XD)
        for level in range(len(cached.heads)):
            logits_BK = cached.level(y_XD, level, strength)
            code_B = draw_codes(logits_BK, uniform_BGP[:, level, place], drawing, temperature)
            if given_BGP is not None:
                code_B = torch.where(given_BGP[:, level, place] >= 0, given_BGP[:, level, place], code_B)
            code_BGP[:, level, place] = code_B
            summand_XD, y_XD = cached.embedded(code_B if strength is None else code_B.repeat(2), level)
            x_XD += summand_XD
    return code_BGP
