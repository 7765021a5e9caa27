"""Drawing tokens of a unified prior: a span of codes, in which only its ids may stand, or text until it ends.

Shapes: B rows, S tokens of a span, N codes, U random numbers of a row, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stage2_prior.codes.unified import TEXT, Block, UnifiedVocabulary
from stage2_prior.config.drawing import Drawing
from stage2_prior.generation.logits import draw_codes, guide
from stage2_prior.priors.sequences import Sequences


@torch.inference_mode()
def draw_span(
    lm: object,
    block: Block,
    prompts: Sequence[Sequence[int]],
    nulls: Sequence[Sequence[int]],
    uniform_BN: Tensor,
    drawing: Drawing,
    given_BN: Tensor | None = None,
) -> Tensor:
    """The tokens, token_BS, of a span of the block's codes behind each prompt; uniform_BN is all their randomness.

    Prompts end with the token that opens the span. Guidance compares with `nulls`. `given_BN` fixes the codes where it
    isn't negative; both are in the order of the flattened codes. Schedules count codes.
    """
    span = block.span()
    rows, codes = uniform_BN.shape
    guided = drawing.guided_steps(codes)
    sequences = Sequences(lm, [*prompts, *nulls] if guided else prompts, span.length)
    token_BS = uniform_BN.new_empty((rows, span.length), dtype=torch.int64)
    code_of = {int(place): n for n, place in enumerate(span.places_N.tolist())}
    for place in range(span.length):
        first, stop = span.limits_S2[place].tolist()
        n = code_of.get(place)
        if n is None:
            token_B = torch.full_like(token_BS[:, 0], first)
        else:
            if n == guided:
                sequences.keep(rows)
            y_BD = sequences.y_BD if n >= guided else guide(sequences.y_BD, drawing.guidance_at(n, codes))
            logits_BK = sequences.logits(y_BD, first, stop)
            which = int(span.order_N[n])
            token_B = draw_codes(logits_BK, uniform_BN[:, which], drawing, drawing.temperature_at(n, codes)) + first
            if given_BN is not None:
                token_B = torch.where(given_BN[:, which] >= 0, given_BN[:, which] + first, token_B)
        token_BS[:, place] = token_B
        if place + 1 < span.length:
            sequences.add(token_B.repeat(len(sequences.y_BD) // rows))
    return token_BS


@dataclass
class _Row:
    """Where a row is: in text, or at a place of a span; and what it has got."""

    tokens: list[int]
    block: Block | None = None
    place: int = 0
    done: bool = False

    def take(self, token: int, vocabulary: UnifiedVocabulary) -> None:
        """Take the next token."""
        if self.done or token == vocabulary.end:
            self.done = True
            return
        self.tokens.append(token)
        if self.block is not None:
            self.place += 1
            if token == self.block.closing:
                self.block = None
        else:
            opened = (block for block in vocabulary.blocks if block.opening == token)
            self.block, self.place = next(opened, None), 0


@torch.inference_mode()
def draw_tokens(
    lm: object,
    vocabulary: UnifiedVocabulary,
    prompts: Sequence[Sequence[int]],
    uniform_BU: Tensor,
    drawing: Drawing,
    *,
    media: bool = False,
) -> list[list[int]]:
    """What follows each prompt until </s>, which is left out, or for U tokens; uniform_BU is all its randomness.

    Text tokens alone; with `media` also spans of codes, which the model opens, which hold their block's ids alone, and
    which are closed at their end. A prompt may end within a span.
    """
    rows = [_Row([], *_within(prompt, vocabulary)) for prompt in prompts]
    sequences = Sequences(lm, prompts, uniform_BU.shape[1])
    device = sequences.y_BD.device
    text_V = vocabulary.kind_of(torch.arange(vocabulary.size)) == vocabulary.kind_number(TEXT)
    if media:
        text_V[[block.opening for block in vocabulary.blocks]] = True
    text_V, id_V = text_V.to(device), torch.arange(vocabulary.size, device=device)
    for number in range(uniform_BU.shape[1]):
        inside = any(row.block is not None for row in rows)
        stop = vocabulary.size if inside else vocabulary.texts
        logits_BV = sequences.logits(sequences.y_BD, 0, stop)
        limits = [(0, vocabulary.size) if row.block is None else row.block.allowed(row.place) for row in rows]
        first_B1, stop_B1 = torch.tensor(limits, device=device)[:, :, None].unbind(1)
        in_text_B1 = torch.tensor([[row.block is None] for row in rows], device=device)
        allowed_BV = torch.where(in_text_B1, text_V, (id_V >= first_B1) & (id_V < stop_B1))[:, :stop]
        temperature = drawing.temperature_at(number, uniform_BU.shape[1])
        logits_BV = logits_BV.masked_fill(~allowed_BV, -torch.inf)
        token_B = draw_codes(logits_BV, uniform_BU[:, number], drawing, temperature)
        for row, token in zip(rows, token_B.tolist(), strict=True):
            row.take(token, vocabulary)
        if all(row.done for row in rows):
            break
        if number + 1 < uniform_BU.shape[1]:
            sequences.add(token_B)
    return [row.tokens for row in rows]


def _within(prompt: Sequence[int], vocabulary: UnifiedVocabulary) -> tuple[Block | None, int]:
    """The block of the span that a prompt ends in, and the place of its next token; None and 0 in text."""
    for back, token in enumerate(reversed(prompt)):
        for block in vocabulary.blocks:
            if token == block.opening:
                return block, back
            if token == block.closing:
                return None, 0
    return None, 0
