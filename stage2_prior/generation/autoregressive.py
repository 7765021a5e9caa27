"""Drawing codes from an autoregressive prior: a static key-value cache, both guidance halves in one batch.

With several codebooks the codes come place by place, each place's of all codebooks, and a code's token is gK + k.

Shapes: B sequences, N codes each, K codes, G codebooks, V vocabulary, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_tokenizer.kernels.cpu.linear import Product
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.graphs import Capture, Kept, Steps, capture_for
from stage2_prior.generation.llama_cache import CachedBody
from stage2_prior.generation.logits import cut_offs, draw_codes, guide

MOST_PROJECTED = 1 << 28
"""Bytes that the table of each token's first-layer q, k and v may take; the table saves that product in each step."""


class CachedLlama(CachedBody):
    """A stock Llama's next-code logits, one token per call, with a static key-value cache.

    Positions count from 0 after `start`. Equal to the module's own logits up to rounding.
    """

    embedding_VD: Tensor

    def __init__(self, lm: Any, codebook_size: int, positions: int, compiled: bool = False, books: int = 1):
        """For sequences of up to `positions` tokens; `compiled` is for captured steps, `books` is G."""
        super().__init__(lm.model, positions)
        self.codebook_size, self.books = codebook_size, books
        self.register_buffer("embedding_VD", lm.model.embed_tokens.weight.detach())
        weight_VD = lm.lm_head.weight.detach()[: books * codebook_size] * self.norm_D
        products = nn.ModuleList(Product(weight_KD) for weight_KD in weight_VD.chunk(books))
        self.head_of_books = cast("Sequence[Product]", products)
        self.projected_VE: Tensor | None = None
        width = len(self.layers[0].qkv_ED.weight)
        if len(self.embedding_VD) * width * self.embedding_VD.element_size() <= MOST_PROJECTED:
            self.projected_VE = self.first_projections(self.embedding_VD)
        self.compiled, self.kept = compiled, Kept()

    def embedded(self, token_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens' embeddings x_BD, and their projections in the first layer where there is a table of these."""
        projected_BE = None if self.projected_VE is None else F.embedding(token_B, self.projected_VE)
        return F.embedding(token_B, self.embedding_VD), projected_BE

    def tokens(self, code_BN: Tensor, first: int = 0) -> Tensor:
        """The tokens of codes at the positions from `first` on, token_BN."""
        if self.books == 1:
            return code_BN
        position_N = torch.arange(first, first + code_BN.shape[1], device=code_BN.device)
        return code_BN + position_N % self.books * self.codebook_size

    def output(self, token_B: Tensor, position: int) -> Tensor:
        """The normed output y_BD for `token_B` at `position`; all positions before it are in the cache."""
        x_BD, projected_BE = self.embedded(token_B)
        return self.extend(x_BD[:, None], position, projected_RE=projected_BE)[:, 0]


class TokenSteps(Steps):
    """The codes of an autoregressive prior, one to a step."""

    def __init__(self, llama: CachedLlama, batch: int, positions: int, before: int, rules: Drawing, capture: Capture):
        """`before` counts the embeddings in front of the codes but one."""
        super().__init__(llama, batch, positions, rules, capture, llama.compiled)
        self.llama, self.before = llama, before
        self.code_BN = torch.zeros(batch, positions, dtype=torch.int64, device=self.position_1.device)
        self.weight_GKD: Tensor | None = None
        if llama.books > 1:
            self.weight_GKD = torch.stack([head.weight.to_dense() for head in llama.head_of_books])

    def step(self, guided: bool, visible: int) -> None:
        """See Steps; the code before is the token."""
        before_1 = self.position_1 - 1
        token_B = self.code_BN.index_select(1, before_1)[:, 0]
        if self.llama.books > 1:
            token_B = token_B + before_1 % self.llama.books * self.llama.codebook_size
        x_XD, projected_XE = self.llama.embedded(token_B.repeat(2) if guided else token_B)
        self.place(self.one_token(x_XD, self.position_1 + self.before, visible, projected_BE=projected_XE), guided)

    def place(self, y_XD: Tensor, guided: bool) -> None:
        """Draw the codes at `position_1` from the outputs before them."""
        assert self.uniform is not None, "begin() comes first"
        uniform_B, given_B = (
            None if x_BN is None else x_BN.index_select(1, self.position_1)[:, 0] for x_BN in (self.uniform, self.given)
        )
        assert uniform_B is not None
        code_B = self.choose(y_XD, self._head(), guided, uniform_B, given_B)
        self.code_BN.index_copy_(1, self.position_1, code_B[:, None])
        self.go_on()

    def _head(self) -> Tensor:
        """The weight of the head for `position_1`."""
        if self.weight_GKD is None:
            return self.llama.head_of_books[0].weight
        return self.weight_GKD.index_select(0, self.position_1 % self.llama.books)[0]


@torch.inference_mode()
def decode(
    llama: CachedLlama,
    token_B: Tensor,
    uniform_BN: Tensor,
    drawing: Drawing,
    *,
    null: int,
    given_BN: Tensor | None = None,
    embedded: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Draw whole grids, code_BN int64, for the conditioning tokens; uniform_BN in [0, 1) is all their randomness.

    `null` is the token that guidance compares with. `given_BN` fixes the codes where it isn't negative. `embedded`
    gives the embeddings in front of the codes, x_BTD (null: the tokens' own). These and the first codes, as far as all
    are given, enter the cache in one step. Where steps can be captured (stage2_prior.generation.graphs), they are.
    """
    batch, positions = uniform_BN.shape
    # Where to begin decides what is launched: the one wait for the device, once for a batch with given codes.
    begun = 0 if given_BN is None else int((given_BN >= 0).all(0).int().cumprod(0).sum())
    guided_positions = drawing.guided_steps(positions)
    if guided_positions <= begun:
        guided_positions = 0
    input_B = torch.cat([token_B, torch.full_like(token_B, null)]) if guided_positions else token_B
    x_BTD = embedded(input_B) if embedded else F.embedding(input_B, llama.embedding_VD)[:, None]
    before = x_BTD.shape[1] - 1
    if begun:
        assert given_BN is not None
        given_BTD = F.embedding(llama.tokens(given_BN[:, :begun]), llama.embedding_VD)
        x_BTD = torch.cat([x_BTD, given_BTD.repeat(len(input_B) // batch, 1, 1)], dim=1)
    if begun == positions:
        assert given_BN is not None
        return given_BN.clone()
    llama.start(len(input_B))
    if (capture := capture_for(token_B.device)) is None:
        return _one_by_one(llama, x_BTD, uniform_BN, drawing, guided_positions, given_BN, begun)
    kind = batch, len(input_B), positions, before, given_BN is None, cut_offs(drawing)
    steps = llama.kept.steps(kind, lambda: TokenSteps(llama, batch, positions, before, drawing, capture))
    steps.begin(begun + 1, guided_positions, uniform_BN, drawing, given_BN)
    steps.position_1.fill_(begun)
    if given_BN is not None:
        steps.code_BN.copy_(given_BN)
    llama.keep(len(input_B))
    steps.place(llama.extend(x_BTD, 0, causal=True)[:, -1], begun < guided_positions)
    steps.replay(begun + 1)
    return steps.code_BN.clone()


def _one_by_one(
    llama: CachedLlama,
    x_BTD: Tensor,
    uniform_BN: Tensor,
    drawing: Drawing,
    guided_positions: int,
    given_BN: Tensor | None,
    begun: int,
) -> Tensor:
    """The codes of `decode`, from the embeddings x_BTD of what is known, without captured steps."""
    batch, positions = uniform_BN.shape
    code_BN = torch.empty(batch, positions, dtype=torch.int64, device=uniform_BN.device)
    if given_BN is not None:
        code_BN[:, :begun] = given_BN[:, :begun]
    y_XD = llama.extend(x_BTD, 0, causal=True)[:, -1]
    for position in range(begun, positions):
        if position < guided_positions:
            y_XD = guide(y_XD, drawing.guidance_at(position, positions))
        logits_BK = llama.head_of_books[position % llama.books](y_XD).float()
        temperature = drawing.temperature_at(position, positions)
        code_B = draw_codes(logits_BK, uniform_BN[:, position], drawing, temperature)
        if given_BN is not None:
            code_B = torch.where(given_BN[:, position] >= 0, given_BN[:, position], code_B)
        code_BN[:, position] = code_B
        if position + 1 < positions:
            if position + 1 == guided_positions:
                llama.keep(batch)
            token_B = llama.tokens(code_B[:, None], position)[:, 0]
            token_X = token_B.repeat(2) if position + 1 < guided_positions else token_B
            y_XD = llama.output(token_X, x_BTD.shape[1] + position - begun)
    return code_BN
