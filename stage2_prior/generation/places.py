"""Drawing codes of several codebooks place by place: Llamas with key-value caches, both guidance halves in one batch.

Of a depth prior a second Llama draws the codes of a place one after the other; of a delay prior one Llama has a head
for each. With delays a step has codes of several places (stage2_prior.generation.delays).

Shapes: B samples, P places, G codebooks, N = G·P codes, S steps, K codes of a codebook, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import Product
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.delays import Delays
from stage2_prior.generation.graphs import Capture, Kept, Steps, capture_for
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import cut_offs, draw_codes, guide
from stage2_prior.generation.one_token import OneToken


class CachedPlaces:
    """The Llamas with key-value caches; that over a place's codes starts again at each step."""

    def __init__(
        self,
        lm: Any,
        heads: Sequence[Tensor],
        bodies: Sequence[Any] = (),
        read_VD: Tensor | None = None,
        *,
        delays: Delays,
        first_tokens: Sequence[int],
        prefix: int = 0,
        compiled: bool = False,
    ):
        """`lm` is the stock model over the places, `heads` are the codebooks' weights, (K, D) each.

        `bodies` are the stock models over a place's codes, for each level its own or all the same, and read_VD what
        they read of tokens; none in a delay prior. `first_tokens` are the codebooks' first tokens, `prefix` the
        embeddings in front of the codes but one; `compiled` is for captured steps.
        """
        self.delays, self.first_tokens, self.before = delays, first_tokens, prefix
        self.compiled, self.kept = compiled, Kept()
        self.over_places = CachedBody(lm, prefix + delays.steps)
        self.embedding_VD = lm.embed_tokens.weight.detach()
        of_models = {id(body): CachedBody(body, len(heads)) for body in bodies}
        self.over_codes = [of_models[id(body)] for body in bodies]
        self.code_VD = None if read_VD is None else read_VD.detach()
        last = self.over_codes or [self.over_places] * len(heads)
        self.heads = [Product(head.detach() * body.norm_D) for head, body in zip(heads, last, strict=True)]

    def start(self, rows: int) -> None:
        """Start `rows` new sequences (both guidance halves)."""
        self.over_places.start(rows)
        for body in self.over_codes:  # each level attends to what the levels before kept
            body.start(rows)
            body.cache_L2CTd = self.over_codes[0].cache_L2CTd

    def keep(self, rows: int) -> None:
        """Continue with the first `rows` sequences only."""
        for body in (self.over_places, *self.over_codes):
            body.keep(rows)

    def place(self, x_BTD: Tensor, step: int) -> Tensor:
        """The first input of a step's codes; x_BTD embeds the condition, or in one token the step before."""
        at, first = (0, True) if step == 0 and self.before else (step + self.before, False)
        y_BD = self.over_places.extend(x_BTD, at, causal=first)[:, -1]
        return y_BD * self.over_places.norm_D if self.over_codes else y_BD

    def level(self, x_BD: Tensor, level: int, strength: float | None) -> Tensor:
        """Logits_BK of a step's code number `level`; x_BD is from `place`, or from `embedded` of the code before.

        With a guidance strength x_BD has both guidance halves, and the logits are guided.
        """
        y_BD = self.over_codes[level].extend(x_BD[:, None], level)[:, 0] if self.over_codes else x_BD
        return self.heads[level](y_BD if strength is None else guide(y_BD, strength)).float()

    def embedded(self, code_B: Tensor, level: int) -> tuple[Tensor, Tensor | None]:
        """What a code adds to the next step's input, and the small Llama's input for it where there is one."""
        token_B = code_B + self.first_tokens[level]
        read_BD = None if self.code_VD is None else F.embedding(token_B, self.code_VD)
        return F.embedding(token_B, self.embedding_VD), read_BD


class PlaceSteps(Steps):
    """The steps of a prior over places, all codes of one at once; positions are steps."""

    def __init__(self, cached: CachedPlaces, rows: int, batch: int, rules: Drawing, capture: Capture):
        """For `rows` sequences, twice the batch with guidance."""
        super().__init__(cached.over_places, batch, cached.delays.steps, rules, capture, cached.compiled)
        self.cached, self.before, device = cached, cached.before, self.position_1.device
        of_bodies = {id(body): OneToken(body, cached.compiled) for body in cached.over_codes}
        self.over_codes = [of_bodies[id(body)] for body in cached.over_codes]
        self.code_BGS = torch.zeros(batch, len(cached.heads), cached.delays.steps, dtype=torch.int64, device=device)
        self.there_GS = cached.delays.there(device).t().contiguous()
        self.x_XD = torch.zeros_like(cached.embedding_VD[:1]).repeat(rows, 1)
        """The next step's input."""
        self._codes_caches = [body.cache_L2CTd for body in cached.over_codes]

    @property
    def stale(self) -> bool:
        """Whether one of the caches is another one now."""
        now = [body.cache_L2CTd for body in self.cached.over_codes]
        return super().stale or any(a is not b for a, b in zip(now, self._codes_caches, strict=True))

    def step(self, guided: bool, visible: int) -> None:
        """See Steps; the small Llama's places are the same in every step."""
        x_XD = self.x_XD if guided else self.x_XD[: self.batch]
        self.place(self.one_token(x_XD, self.position_1 + self.before, visible), guided)

    def place(self, y_XD: Tensor, guided: bool) -> None:
        """Draw the codes at `position_1` from the Llama's output about them."""
        assert self.uniform is not None, "begin() comes first"
        if self.over_codes:
            y_XD = y_XD * self.cached.over_places.norm_D
        next_XD, codes = torch.zeros_like(y_XD), []
        uniform_BG = self.uniform.index_select(2, self.position_1)[..., 0]
        given_BG = None if self.given is None else self.given.index_select(2, self.position_1)[..., 0]
        there_G1 = self.there_GS.index_select(1, self.position_1)
        read_XD: Tensor | None = y_XD
        for level, head in enumerate(self.cached.heads):
            z_XD = y_XD
            if self.over_codes:
                assert read_XD is not None
                one = self.over_codes[level]
                z_XD = one(read_XD, one.place_T[level : level + 1], level + 1, last=True)
            given_B = None if given_BG is None else given_BG[:, level]
            codes.append(self.choose(z_XD, head.weight, guided, uniform_BG[:, level], given_B))
            summand_XD, read_XD = self.cached.embedded(codes[-1].repeat(2) if guided else codes[-1], level)
            if self.cached.delays:
                summand_XD = summand_XD * there_G1[level]
                read_XD = None if read_XD is None else read_XD * there_G1[level]
            next_XD = next_XD + summand_XD
        self.code_BGS.index_copy_(2, self.position_1, torch.stack(codes, dim=1)[..., None])
        self.x_XD[: len(next_XD)].copy_(next_XD)
        self.go_on()


@torch.inference_mode()
def decode_places(
    cached: CachedPlaces,
    token_B: Tensor,
    uniform_BN: Tensor,
    drawing: Drawing,
    *,
    null: int,
    given_BN: Tensor | None = None,
    embedded: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Draw all codes, code_BN int64, step by step, which are the steps of schedules.

    As stage2_prior.generation.autoregressive.decode; codes lie as (G, P) in a row.
    """
    batch, guided, books = len(token_B), drawing.guided_steps(cached.delays.steps), len(cached.heads)
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided else token_B
    x_XTD = embedded(input_B) if embedded else F.embedding(input_B, cached.embedding_VD)[:, None]
    cached.start(len(input_B))

    def by_steps(x_BN: Tensor, fill: float) -> Tensor:
        """Numbers of codes as x_BGS."""
        x_BGP = x_BN.unflatten(1, (books, -1))
        return cached.delays.spread(x_BGP.transpose(1, 2), fill).transpose(1, 2) if cached.delays else x_BGP

    uniform_BGS = by_steps(uniform_BN, 0)
    given_BGS = None if given_BN is None else by_steps(given_BN, -1)
    if (capture := capture_for(token_B.device)) is None:
        code_BGS = _step_by_step(cached, x_XTD, uniform_BGS, drawing, guided, given_BGS)
    else:
        kind = batch, len(input_B), given_BN is None, cut_offs(drawing)
        steps = cached.kept.steps(kind, lambda: PlaceSteps(cached, len(input_B), batch, drawing, capture))
        code_BGS = _captured(steps, x_XTD, uniform_BGS, drawing, guided, given_BGS)
    if cached.delays:
        code_BGS = cached.delays.gathered(code_BGS.transpose(1, 2)).transpose(1, 2)
    return code_BGS.flatten(1).clone()


def _captured(
    steps: PlaceSteps,
    x_XTD: Tensor,
    uniform_BGS: Tensor,
    drawing: Drawing,
    guided: int,
    given_BGS: Tensor | None,
) -> Tensor:
    """The codes code_BGS of `decode_places` by captured steps; with a prefix the first step is not one of them."""
    first = int(steps.before > 0)
    steps.begin(first, guided, uniform_BGS, drawing, given_BGS)
    if first:
        steps.position_1.fill_(0)
        steps.place(steps.cached.over_places.extend(x_XTD, 0, causal=True)[:, -1], guided > 0)
    else:
        steps.x_XD.copy_(x_XTD[:, 0])
    steps.replay(first)
    return steps.code_BGS


def _step_by_step(
    cached: CachedPlaces,
    x_XTD: Tensor,
    uniform_BGS: Tensor,
    drawing: Drawing,
    guided: int,
    given_BGS: Tensor | None,
) -> Tensor:
    """The codes code_BGS of `decode_places`, from the first step's input x_XTD, without captured steps."""
    code_BGS, delays = torch.empty_like(uniform_BGS, dtype=torch.int64), cached.delays
    for step in range(delays.steps):
        if step == guided:
            x_XTD = x_XTD[: len(code_BGS)]
            cached.keep(len(code_BGS))
        strength = drawing.guidance_at(step, delays.steps) if step < guided else None
        temperature = drawing.temperature_at(step, delays.steps)
        y_XD = cached.place(x_XTD, step)
        x_XD, read_XD = torch.zeros_like(y_XD), y_XD
        for level in range(len(cached.heads)):
            logits_BK = cached.level(read_XD, level, strength)
            code_B = draw_codes(logits_BK, uniform_BGS[:, level, step], drawing, temperature)
            if given_BGS is not None:
                code_B = torch.where(given_BGS[:, level, step] >= 0, given_BGS[:, level, step], code_B)
            code_BGS[:, level, step] = code_B
            summand_XD, of_code_XD = cached.embedded(code_B if strength is None else code_B.repeat(2), level)
            there = delays.at(step, level)
            x_XD += summand_XD if there else 0
            if of_code_XD is not None:
                read_XD = of_code_XD if there else torch.zeros_like(of_code_XD)
        x_XTD = x_XD[:, None]
    return code_BGS
