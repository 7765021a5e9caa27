"""A unified prior as the prior over one block's codes given a text, for all that draws and rates codes.

A text is token_BL, its ids padded with -1; all -1 is no text, for which <none> stands.

Shapes: B batch, N codes, L tokens of a text, S tokens of a span, K codes, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data.codes.batches import CodeBatch
from launch.command.cli import one_line
from stage1_tokenizer.layers.precision import without_autocast
from stage2_prior.codes.unified import Block, UnifiedVocabulary
from stage2_prior.codes.vocabulary import Vocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.priors.base import Prior
from stage2_prior.priors.condition import Condition
from stage2_prior.priors.continuing import draw_span
from stage2_prior.priors.documents import Documents
from stage2_prior.priors.llama import through_layers
from stage2_prior.priors.losses import figures

NOTHING = -1
"""Padding of a text."""


class PromptCondition(Condition):
    """Texts as tokens of the vocabulary."""

    name = "text"
    what = "prompts"

    def __init__(self, vocabulary: Vocabulary, unified: UnifiedVocabulary, longest: int):
        """Texts of more than `longest` tokens lose their ends."""
        super().__init__(vocabulary)
        self.unified, self.prefix = unified, longest

    def __str__(self) -> str:
        """The condition in words."""
        return f"texts of up to {self.prefix} tokens"

    @property
    def null(self) -> int:
        """Stands at every place of a text that isn't there."""
        return NOTHING

    def of_labels(self, label_B: Tensor) -> Tensor:
        """No text, token_BL, whatever the labels."""
        return label_B.new_full((len(label_B), 1), NOTHING)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """The texts' tokens, token_BL, on the CPU; an empty text has none."""
        ids = [self.unified.encode_text(text)[: self.prefix] for text in texts]
        longest = max(1, *map(len, ids))
        return torch.tensor([[*one, *[NOTHING] * (longest - len(one))] for one in ids])

    def cut(self, texts: Sequence[str]) -> str:
        """How many of the texts are longer than fits beside the codes, with an example."""
        cut = [text for text in texts if len(self.unified.encode_text(text)) > self.prefix]
        if not cut:
            return ""
        return (
            f"{len(cut)} of {len(texts)} texts are longer than the {self.prefix} tokens that fit beside the codes and "
            f"are cut, such as {one_line(cut[0], 80)!r}"
        )

    def of_batch(self, batch: CodeBatch) -> Tensor:
        """The captions' tokens, token_BL."""
        return self.of_texts(batch.captions)


class BlockPrior(Prior):
    """The codes of one block, given a text in front of them."""

    kind = "unified"
    stock = "AutoModelForCausalLM"
    forms = ("grid", "levels")
    in_order = True

    def __init__(self, lm: Any, unified: UnifiedVocabulary, block: Block, positions: int):
        """Of a prior for rows of `positions` tokens."""
        vocabulary = Vocabulary(block.source.codebook_size, (), False, block.source.codebooks)
        super().__init__(lm, vocabulary, block.source)
        self.unified, self.block = unified, block
        self.condition = PromptCondition(vocabulary, unified, positions - block.length - 4)

    @property
    def exported(self) -> dict[str, nn.Module]:
        """The whole prior's."""
        return {"": self.lm}

    def prompts(self, token_BL: Tensor) -> list[list[int]]:
        """The ids in front of the codes: <s>, the text or <none>, and what opens the span."""
        unified = self.unified
        texts = [[token for token in row if token != NOTHING] for row in token_BL.tolist()]
        return [[unified.begin, *(text or [unified.none]), self.block.opening] for text in texts]

    @without_autocast
    def sample(self, token_B: Tensor, uniform_BU: Tensor, drawing: Drawing, given_BN: Tensor | None = None) -> Tensor:
        """Draw code_BN one after the other; see Prior.sample."""
        prompts, nulls = self.prompts(token_B), self.prompts(torch.full_like(token_B, NOTHING))
        token_BS = draw_span(self.lm, self.block, prompts, nulls, uniform_BU, drawing, given_BN)
        return self.block.codes_of(token_BS)

    @torch.no_grad()
    def score(self, code_BN: Tensor, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """-ln p of each code in nats among those that may stand at its place, and whether it is the likeliest one."""
        prompts, span = self.prompts(token_B), self.block.span()
        ids = self.block.tokens(code_BN).tolist()
        longest = max(map(len, prompts)) + span.length
        rows = [[*prompt, *codes] for prompt, codes in zip(prompts, ids, strict=True)]
        token_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=code_BN.device)
        documents = Documents(torch.zeros_like(token_BT))
        y_BTD = through_layers(self.lm.model, self.lm.model.embed_tokens(token_BT), documents=documents)
        place_N = torch.from_numpy(span.places_N).to(code_BN.device)
        start_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=code_BN.device)
        at_BN = start_B[:, None] + place_N
        y_BND = y_BTD.gather(1, at_BN[..., None].expand(-1, -1, y_BTD.shape[2]))
        nats_BN, right_BN = (torch.empty(code_BN.shape, device=code_BN.device) for _ in range(2))
        for first in sorted(set(span.first_N.tolist())):
            own = torch.from_numpy(span.first_N == first).to(code_BN.device)
            which = torch.from_numpy(span.order_N[span.first_N == first]).to(code_BN.device)
            head_KD = self.lm.lm_head.weight[first : first + self.vocabulary.codebook_size]
            logits_BMK = (y_BND[:, own] @ head_KD.t()).float()
            nats_BN[:, which], right_BN[:, which] = figures(logits_BMK, code_BN[:, which])
        return nats_BN, right_BN
