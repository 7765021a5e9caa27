"""One vocabulary of text and codes: text tokens first, then a block of ids for each tokenizer of samples.

The text's ids are those of a stock `tokenizer.json`, which has the special tokens too (SPECIAL, and the opening and
closing token of each block's kind of sample); a block of G codebooks of K codes takes the next G·K ids, so that code k of
codebook g is first + gK + k. A span of codes is `<picture> codes </picture>`; its codes come place by place, each place's
G codes one after the other.

Shapes: B batch, N codes of a sample, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from launch.command.cli import UserError
from stage2_prior.codes.source import CodeSource

BEGIN, END, NONE = "<s>", "</s>", "<none>"
"""The first token of a document, its last, and what stands in place of a text that isn't there."""
SPAN = {"pictures": "picture", "sounds": "sound", "videos": "video"}
"""What a span of codes is called, by the kind of sample: <picture> … </picture>."""
TEXT = "text"
"""The kind of text tokens, special ones included; codes are of their block's kind."""
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

    @property
    def size(self) -> int:
        """G·K ids."""
        return self.source.codebooks * self.source.codebook_size

    @property
    def codes(self) -> int:
        """N, the codes of a span."""
        return self.source.positions

    def allowed(self, place: int) -> tuple[int, int]:
        """The ids, from the first up to but without the second, that may stand at a place of a span, 0 … N."""
        if place == self.codes:
            return self.closing, self.closing + 1
        low = self.first + place % self.source.codebooks * self.source.codebook_size
        return low, low + self.source.codebook_size

    def tokens(self, code_BN: Tensor) -> Tensor:
        """The ids of codes (flattened from their form, (G, h, w)) in the order of a span."""
        books = self.source.codebooks
        code_BPG = code_BN.unflatten(-1, (books, -1)).transpose(-1, -2)
        first_G = torch.arange(books, device=code_BN.device) * self.source.codebook_size + self.first
        return (code_BPG + first_G).flatten(-2)

    def codes_of(self, token_BN: Tensor) -> Tensor:
        """The codes, flattened from their form, of a span's ids: undoes `tokens`."""
        books = self.source.codebooks
        first_G = torch.arange(books, device=token_BN.device) * self.source.codebook_size + self.first
        return (token_BN.unflatten(-1, (-1, books)) - first_G).transpose(-1, -2).flatten(-2)


@dataclass(frozen=True)
class UnifiedVocabulary:
    """The ids of text tokens, special tokens and codes."""

    text: Tokenizer
    """The stock tokenizer of texts, with all special tokens and no codes."""
    blocks: tuple[Block, ...] = ()

    @classmethod
    def of(cls, text: Tokenizer, sources: Mapping[str, CodeSource]) -> Self:
        """The vocabulary of a tokenizer with all special tokens and of the tokenizers of `sources`, by block's name."""
        first, blocks = text.get_vocab_size(), []
        for name, source in sources.items():
            span = SPAN[source.kind]
            opening, closing = (_id(text, token) for token in (f"<{span}>", f"</{span}>"))
            blocks.append(Block(name, source, first, opening, closing))
            first += blocks[-1].size
        for token in (BEGIN, END, NONE):
            _id(text, token)
        return cls(text, tuple(blocks))

    @cached_property
    def begin(self) -> int:
        """The id of <s>."""
        return _id(self.text, BEGIN)

    @cached_property
    def end(self) -> int:
        """The id of </s>."""
        return _id(self.text, END)

    @cached_property
    def none(self) -> int:
        """The id of <none>."""
        return _id(self.text, NONE)

    @property
    def texts(self) -> int:
        """The number of ids that aren't codes."""
        return self.text.get_vocab_size()

    @property
    def size(self) -> int:
        """V."""
        return self.texts + sum(block.size for block in self.blocks)

    @property
    def kinds(self) -> dict[str, int]:
        """The kinds of tokens, in the order of their numbers, and how many ids each has."""
        return {TEXT: self.texts} | {block.name: block.size for block in self.blocks}

    def kind_of(self, token_BT: Tensor) -> Tensor:
        """The number of each token's kind."""
        bounds = [block.first for block in self.blocks]
        return torch.bucketize(token_BT, torch.tensor(bounds, device=token_BT.device), right=True)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, without the tokenizer of texts."""
        return {
            "text_tokens": self.texts,
            "blocks": [{"name": block.name, "first": block.first, "codes": block.source.to_dict()} for block in self.blocks],
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], text: Tokenizer) -> Self:
        """The vocabulary that `to_dict` described; UserError where `text` isn't its tokenizer."""
        sources = {block["name"]: CodeSource.from_dict(block["codes"]) for block in saved["blocks"]}
        found = cls.of(text, sources)
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


def _id(text: Tokenizer, token: str) -> int:
    found = text.token_to_id(token)
    if found is None:
        raise UserError(f"the tokenizer of texts has no token {token}: add it")
    return int(found)
