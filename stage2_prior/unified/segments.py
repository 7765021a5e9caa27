"""A sample as segments of text and codes, and the documents of tokens that are made of them.

A document is `<s> segments </s>`; a segment is a text's tokens or `<picture> codes </picture>`. In a direction (a text
to codes, or codes to a text) only what is asked for bears loss.

Shapes: T tokens of a document.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from launch.command.cli import UserError
from stage2_prior.codes.unified import MARKS, TEXT, Block, UnifiedVocabulary

NO_LOSS = -1
"""The kind of a token that bears no loss."""

Direction = Literal["text_to_media", "media_to_text", "both", "text"]
"""text_to_media: the text and then the codes, which alone bear loss; media_to_text: the other way round; both: in
either order, all bear loss; text: the text alone."""


@dataclass(frozen=True)
class TextSegment:
    """A text's tokens."""

    ids: Sequence[int]
    bears_loss: bool = True
    size: int = 0
    """Its bytes in UTF-8."""

    @classmethod
    def of(cls, vocabulary: UnifiedVocabulary, text: str) -> "TextSegment":
        """The segment of a text."""
        return cls(vocabulary.encode_text(text), size=len(text.encode()))


@dataclass(frozen=True)
class MediaSegment:
    """A sample's codes."""

    block: Block
    codes: np.ndarray
    """In their source's shape; with row tokens also of another grid."""
    bears_loss: bool = True

    @property
    def ids(self) -> np.ndarray:
        """What stands between the opening and the closing token, int64."""
        books = self.block.source.codebooks
        return self.block.span(None if self.block.source.scales else self.codes.shape[books > 1 :]).write(self.codes)


Segment = TextSegment | MediaSegment


class Interleaved(list[Segment]):
    """The segments of a document that was written as one: they keep their order, and all bear loss."""


@dataclass(frozen=True)
class Document:
    """Tokens that are read together."""

    token_T: np.ndarray
    """int64."""
    kind_T: np.ndarray
    """The kind of each token's loss (UnifiedVocabulary.kinds), NO_LOSS where it bears none; int64."""
    spans: tuple[tuple[int, int], ...] = ()
    """Where spans of codes, with what opens and closes them, begin and end: they are never cut."""
    size: int = 0
    """Bytes in UTF-8 of the texts that bear loss."""
    cut: int = 0
    """Text tokens that didn't fit."""

    def __len__(self) -> int:
        return len(self.token_T)


def directed(segments: Sequence[Segment], direction: Direction, *, swap: bool = False) -> list[Segment]:
    """A sample of texts and codes in a direction's order, with what bears loss; `swap`: with `both`, codes first.

    A sample of texts alone, of codes alone, or interleaved stays as it is, but for text, which leaves codes out.
    """
    if isinstance(segments, Interleaved):
        return segments
    texts = [one for one in segments if isinstance(one, TextSegment)]
    media = [one for one in segments if isinstance(one, MediaSegment)]
    if direction == "text" and texts:
        return [replace(one, bears_loss=True) for one in texts]
    if not texts or not media:
        return list(segments)
    codes_first = direction == "media_to_text" or (direction == "both" and swap)
    first, last = (media, texts) if codes_first else (texts, media)
    given = [replace(one, bears_loss=direction == "both") for one in first]
    return [*given, *(replace(one, bears_loss=True) for one in last)]


def without_text(segments: Sequence[Segment]) -> list[Segment]:
    """The codes alone, all of which bear loss, for guidance: `layout` puts <none> in place of the text."""
    return [replace(one, bears_loss=True) for one in segments if isinstance(one, MediaSegment)]


def layout(vocabulary: UnifiedVocabulary, segments: Sequence[Segment], length: int | None = None) -> Document:
    """The document of some segments in their order; texts lose their ends where it is longer than `length` tokens.

    `<none>` stands in front of a document that has codes and no text. UserError where the codes alone are longer.
    """
    media = [one for one in segments if isinstance(one, MediaSegment)]
    texts = [one for one in segments if isinstance(one, TextSegment)]
    bare = bool(media) and not texts
    ids_of = {id(one): one.ids for one in media}
    least = 2 + bare + sum(len(ids) + 2 for ids in ids_of.values())
    if length is not None and length < least:
        raise UserError(f"a sample takes {least} tokens without its text: set length={length} to that or more")
    room = sys.maxsize if length is None else length - least
    kinds = list(vocabulary.kinds)
    tokens: list[np.ndarray] = [np.array([vocabulary.begin, vocabulary.none][: 1 + bare])]
    of: list[np.ndarray] = [np.full(1 + bare, NO_LOSS)]
    at, spans, size, cut = 1 + bare, [], 0, 0
    for one in segments:
        if isinstance(one, TextSegment):
            ids = np.array(one.ids[:room], dtype=np.int64)
            room -= len(ids)
            cut += len(one.ids) - len(ids)
            size += one.size if one.bears_loss else 0
            own = np.full(len(ids), kinds.index(TEXT))
        else:
            ids = np.concatenate([[one.block.opening], ids_of[id(one)], [one.block.closing]])
            own = np.where(ids < one.block.first, kinds.index(MARKS), kinds.index(one.block.name))
            spans.append((at, at + len(ids)))
        tokens.append(ids)
        of.append(own if one.bears_loss else np.full(len(ids), NO_LOSS))
        at += len(ids)
    end = NO_LOSS if segments and not segments[-1].bears_loss else kinds.index(_end_kind(segments))
    tokens.append(np.array([vocabulary.end]))
    of.append(np.array([end]))
    return Document(np.concatenate(tokens), np.concatenate(of), tuple(spans), size, cut)


def _end_kind(segments: Sequence[Segment]) -> str:
    """The kind of the token that ends a document: where a text ends is part of what is said of it."""
    return MARKS if segments and isinstance(segments[-1], MediaSegment) else TEXT


def pieces(document: Document, length: int) -> list[Document]:
    """A document in pieces of at most `length` tokens: each begins with the last token of the one before, without loss.

    So every token is predicted exactly once. Spans stay whole; UserError for one that can't.
    """
    if len(document) <= length:
        return [document]
    found, start = [], 0
    while True:
        stop = min(start + length, len(document))
        if stop < len(document):
            inside = next((span for span in document.spans if span[0] < stop < span[1]), None)
            stop = stop if inside is None else inside[0]
        if stop <= start + 1:
            raise UserError(f"a span of codes is longer than length={length}: set length to more")
        kind_T = document.kind_T[start:stop].copy()
        kind_T[0] = NO_LOSS
        spans = tuple((a - start, b - start) for a, b in document.spans if start <= a and b <= stop)
        found.append(Document(document.token_T[start:stop], kind_T, spans, document.size if start == 0 else 0))
        if stop == len(document):
            return found
        start = stop - 1
