"""One vocabulary of text and codes: text tokens first, then a block of ids for each tokenizer of samples.

The text's ids are those of a stock `tokenizer.json`, which has the special tokens too (SPECIALS). A block of G
codebooks of K codes takes the next G·K ids, so that code k of codebook g is first + gK + k. `spans.Span` says in which
order a sample's codes stand between `<picture>` and `</picture>`.

Shapes: B batch, N codes of a sample, S tokens of a span, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource
from stage2_prior.codes.spans import Span, span_of
from stage2_prior.codes.specials import BEGIN, END, FRAME, NONE, ROW, SPAN, SPECIALS, id_of, size_of

TEXT, MARKS = "text", "marks"
"""Kinds of tokens: those of texts, with the end of one; and what opens, divides and closes spans, or ends a document
behind one. Codes are of their block's kind."""
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Block:
    """The ids of one tokenizer's codes."""

    name: str
    """Its kind of loss, and the beginning of its tokens' strings: <NAME_0>, <NAME_1>, …"""
    source: CodeSource
    """Whose codes they are."""
    first: int
    """The id of code 0 of codebook 0."""
    opening: int
    """The id that opens a span of its codes."""
    closing: int
    """The id that closes it."""
    delayed: bool = False
    """Whether the codes of codebook g come g places later (MusicGen's delay, in one row); else place by place."""
    row: int | None = None
    """The id that ends a row of codes; None: spans have no such tokens, and all the same size."""
    frame: int | None = None
    """The id that ends a frame of a video, where `row` is set."""

    @property
    def size(self) -> int:
        """G·K ids."""
        return self.source.codebooks * self.source.codebook_size

    @property
    def codes(self) -> int:
        """N, the codes of a span of the usual size."""
        return self.source.positions

    @property
    def length(self) -> int:
        """S, the tokens between the opening and the closing one of a span of the usual size."""
        return self.span().length

    def span(self, grid: Sequence[int] | None = None) -> Span:
        """How codes on a grid (by default the source's) stand in a span. ValueError for another one without `rows`."""
        source = self.source
        own = tuple(grid) if grid is not None else source.grid
        if own != source.grid and (self.row is None or len(own) != len(source.grid)):
            raise ValueError(
                f"codes on {own} are not on the grid {source.grid} of the block {self.name}: set rows=true"
            )
        if source.scales:
            own = source.shape
        size, books = source.codebook_size, source.codebooks
        return span_of(own, books, size, self.first, self.closing, self.delayed, self.row, self.frame)

    def allowed(self, place: int) -> tuple[int, int]:
        """The ids, from the first up to but without the second, that may stand at a place of a span, 0 … S."""
        first, stop = self.span().limits_S2[place].tolist()
        return first, stop

    def tokens(self, code_BN: Tensor) -> Tensor:
        """The ids, token_BS, of codes (flattened from their form, (G, h, w)) in the order of a span."""
        span = self.span()
        code_N = torch.from_numpy(span.order_N).to(code_BN.device)
        token_BS = torch.from_numpy(span.marks_S).to(code_BN.device).expand(*code_BN.shape[:-1], -1).clone()
        first_N = torch.from_numpy(span.first_N).to(code_BN.device)
        token_BS[..., torch.from_numpy(span.places_N).to(code_BN.device)] = code_BN[..., code_N] + first_N
        return token_BS

    def codes_of(self, token_BS: Tensor) -> Tensor:
        """The codes, code_BN flattened from their form, of a span's ids: undoes `tokens`."""
        span = self.span()
        places_N, order_N, first_N = (
            torch.from_numpy(x_N).to(token_BS.device) for x_N in (span.places_N, span.order_N, span.first_N)
        )
        code_BN = token_BS.new_empty((*token_BS.shape[:-1], len(order_N)))
        code_BN[..., order_N] = token_BS[..., places_N] - first_N
        return code_BN


@dataclass(frozen=True)
class UnifiedVocabulary:
    """The ids of text tokens, special tokens and codes."""

    text: Tokenizer
    """The stock tokenizer of texts, with all special tokens and no codes."""
    blocks: tuple[Block, ...] = ()

    def __post_init__(self) -> None:
        # A text that has "<picture>" in it means these letters. This is no part of the tokenizer's file.
        self.text.encode_special_tokens = True

    @classmethod
    def of(
        cls, text: Tokenizer, sources: Mapping[str, CodeSource], *, delayed: bool = False, rows: bool = False
    ) -> Self:
        """The vocabulary of a tokenizer with all special tokens and of the tokenizers of `sources`, by block's name.

        `delayed` is for blocks of several codebooks, `rows` for those on grids of rows.
        """
        first, blocks = size_of(text), []
        for name, source in sources.items():
            span = SPAN[source.kind]
            opening, closing = (id_of(text, token) for token in (f"<{span}>", f"</{span}>"))
            late, cut = delayed and source.codebooks > 1, rows and len(source.grid) > 1 and not source.scales
            if late and cut:
                raise ValueError(f"rows=true is not supported with levels=delayed (block {name}): remove one of them")
            row = id_of(text, ROW) if cut else None
            frame = id_of(text, FRAME) if cut and len(source.grid) > 2 else None
            blocks.append(Block(name, source, first, opening, closing, late, row, frame))
            first += blocks[-1].size
        for token in (BEGIN, END, NONE):
            id_of(text, token)
        return cls(text, tuple(blocks))

    @cached_property
    def begin(self) -> int:
        """The id of <s>."""
        return id_of(self.text, BEGIN)

    @cached_property
    def end(self) -> int:
        """The id of </s>."""
        return id_of(self.text, END)

    @cached_property
    def none(self) -> int:
        """The id of <none>."""
        return id_of(self.text, NONE)

    @cached_property
    def texts(self) -> int:
        """The number of ids that aren't codes."""
        return size_of(self.text)

    @property
    def size(self) -> int:
        """V."""
        return self.texts + sum(block.size for block in self.blocks)

    def block(self, name: str) -> Block:
        """The block of a name; UserError lists those that there are."""
        for block in self.blocks:
            if block.name == name:
                return block
        names = ", ".join(block.name for block in self.blocks) or "none: it is a vocabulary of texts alone"
        raise UserError(f"block {name!r} is not one of the prior's: it has {names}")

    def block_of(self, source: CodeSource) -> Block:
        """The block of codes of a source's tokenizer; UserError without one."""
        for block in self.blocks:
            if block.source.tokenizer == source.tokenizer:
                return block
        raise UserError(f"no block is of the tokenizer {source.tokenizer[:12]}…, of these codes: train with its codes")

    @cached_property
    def kinds(self) -> dict[str, int]:
        """The kinds of tokens, in the order of their numbers, and how many ids each has."""
        marks = len(self._marks)
        return {TEXT: self.texts - marks, MARKS: marks} | {block.name: block.size for block in self.blocks}

    def kind_number(self, name: str) -> int:
        """The number of a kind."""
        return list(self.kinds).index(name)

    def kind_of(self, token_BT: Tensor) -> Tensor:
        """The number of each token's kind."""
        return self._kinds.to(token_BT.device)[token_BT]

    @cached_property
    def _kinds(self) -> Tensor:
        kind_V = torch.zeros(self.size, dtype=torch.int64)
        kind_V[sorted(self._marks)] = 1
        for number, block in enumerate(self.blocks):
            kind_V[block.first : block.first + block.size] = 2 + number
        return kind_V

    @cached_property
    def _marks(self) -> set[int]:
        found = [self.text.token_to_id(token) for token in SPECIALS if token != END]
        return {token for token in found if token is not None}

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text; none of them is special, whatever the text holds."""
        return list(self.text.encode(text, add_special_tokens=False).ids)

    def decode_text(self, tokens: Sequence[int]) -> str:
        """The text of ids; special ones and codes are left out."""
        kept = [token for token in tokens if token < self.texts and token not in self._marks and token != self.end]
        return str(self.text.decode(kept, skip_special_tokens=False))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, without the tokenizer of texts."""
        blocks = []
        for block in self.blocks:
            forms = {"delayed": block.delayed, "rows": block.row is not None}
            described = {"name": block.name, "first": block.first, "codes": block.source.to_dict()}
            blocks.append(described | {form: True for form, used in forms.items() if used})
        return {"text_tokens": self.texts, "blocks": blocks}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], text: Tokenizer) -> Self:
        """The vocabulary that `to_dict` described; UserError where `text` isn't its tokenizer."""
        sources = {block["name"]: CodeSource.from_dict(block["codes"]) for block in saved["blocks"]}
        delayed, rows = (any(block.get(form) for block in saved["blocks"]) for form in ("delayed", "rows"))
        found = cls.of(text, sources, delayed=delayed, rows=rows)
        if found.texts != saved["text_tokens"]:
            raise UserError(f"the tokenizer has {found.texts} tokens, the prior {saved['text_tokens']}: give its own")
        return found


@dataclass
class Packed:
    """Documents packed into rows, on the CPU."""

    token_BT: Tensor
    """int64."""
    document_BT: Tensor
    """The number of each token's document in its row, int64; the row's rest is a document of its own, without loss."""
    kind_BT: Tensor
    """The kind of each token's loss (UnifiedVocabulary.kinds), -1 where it bears none; int64."""


def block_names(sources: Sequence[CodeSource]) -> dict[str, CodeSource]:
    """The sources by their blocks' names: picture, sound, video; further ones of a kind are picture2, …

    Sources of one tokenizer, on whatever grids, are one block.
    """
    named: dict[str, CodeSource] = {}
    for source in sources:
        if source.kind not in SPAN:
            raise UserError(f"codes of {source.kind} have no place in a unified prior: it takes {', '.join(SPAN)}")
        if any(source.tokenizer == known.tokenizer for known in named.values()):
            continue
        name = SPAN[source.kind]
        count = 1 + sum(known.kind == source.kind for known in named.values())
        named[name if count == 1 else f"{name}{count}"] = source
    return named
