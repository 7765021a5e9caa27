"""Documents: order, what bears loss, what is cut, and packing."""

from __future__ import annotations

import numpy as np
import pytest

from launch.command.cli import UserError
from stage2_prior.codes.unified import UnifiedVocabulary
from stage2_prior.unified.packing import pack
from stage2_prior.unified.segments import (
    NO_LOSS,
    Document,
    MediaSegment,
    Segment,
    TextSegment,
    directed,
    layout,
    pieces,
    without_text,
)
from tests.stage2_prior.unified.tiny import vocabulary

CODES = np.arange(12).reshape(3, 4)


def shown(known: UnifiedVocabulary, document: Document) -> list[str]:
    """Each token in brackets where it bears no loss, with its kind where it does."""
    kinds = list(known.kinds)
    words = []
    for token, kind in zip(document.token_T.tolist(), document.kind_T.tolist(), strict=True):
        word = known.text.id_to_token(token) or str(token - known.texts)
        words.append(f"({word})" if kind == NO_LOSS else f"{word} {kinds[kind]}")
    return words


def sample(known: UnifiedVocabulary) -> list[Segment]:
    return [TextSegment.of(known, "ab"), MediaSegment(known.blocks[0], CODES)]


def test_a_direction_shows_first_what_it_is_given_and_asks_for_the_rest() -> None:
    known = vocabulary()
    codes = [f"{i} picture" for i in range(12)]
    draw = layout(known, directed(sample(known), "text_to_media"))
    assert shown(known, draw) == [
        "(<s>)", "(a)", "(b)", "<picture> marks", *codes, "</picture> marks", "</s> marks",
    ]  # fmt: skip
    describe = layout(known, directed(sample(known), "media_to_text"))
    given = [f"({i})" for i in range(12)]
    assert shown(known, describe) == [
        "(<s>)", "(<picture>)", *given, "(</picture>)", "a text", "b text", "</s> text",
    ]  # fmt: skip
    assert (draw.size, describe.size) == (0, 2)
    both = layout(known, directed(sample(known), "both", swap=True))
    assert NO_LOSS not in both.kind_T[1:]
    assert both.token_T.tolist() == describe.token_T.tolist()
    alone = layout(known, directed(sample(known), "text"))
    assert shown(known, alone) == ["(<s>)", "a text", "b text", "</s> text"]
    dropped = layout(known, without_text(sample(known)))
    assert shown(known, dropped)[:4] == ["(<s>)", "(<none>)", "<picture> marks", "0 picture"]


def test_captions_are_cut_to_what_fits_beside_the_codes() -> None:
    known = vocabulary()
    document = layout(known, directed(sample(known), "text_to_media"), length=17)
    assert (len(document), document.cut) == (17, 1)
    with pytest.raises(UserError, match="takes 16 tokens without its text: set length=15"):
        layout(known, directed(sample(known), "text_to_media"), length=15)


def test_a_long_document_goes_on_in_pieces_that_predict_every_token_once() -> None:
    known = vocabulary()
    picture = MediaSegment(known.blocks[0], CODES)
    document = layout(known, [TextSegment.of(known, "abcdefghij"), picture, TextSegment.of(known, "klm" * 9)])
    found = pieces(document, 16)
    assert max(map(len, found)) <= 16
    predicted = [token for piece in found for token in piece.token_T[1:].tolist()]
    assert predicted == document.token_T[1:].tolist()
    assert [kind for piece in found for kind in piece.kind_T[1:].tolist()] == document.kind_T[1:].tolist()
    assert all(piece.kind_T[0] == NO_LOSS for piece in found)
    whole = [piece for piece in found if known.blocks[0].opening in piece.token_T[1:]]
    assert len(whole) == 1
    assert known.blocks[0].closing in whole[0].token_T
    with pytest.raises(UserError, match="longer than length"):
        pieces(document, 14)


def test_packed_rows_hold_every_document_whole_and_once() -> None:
    lengths = np.random.default_rng(0).integers(2, 30, size=50).tolist()
    documents = [Document(np.full(n, i), np.arange(n)) for i, n in enumerate(lengths)]
    packed = pack(documents, 32, end=99)
    seen = []
    for token_T, document_T, kind_T in zip(packed.token_BT, packed.document_BT, packed.kind_BT, strict=True):
        assert (document_T.diff() >= 0).all()
        for number in document_T.unique().tolist():
            inside = document_T == number
            which = int(token_T[inside][0])
            if which == 99:
                assert (kind_T[inside] == NO_LOSS).all()
                continue
            assert (token_T[inside] == which).all()
            assert kind_T[inside].tolist() == list(range(lengths[which]))
            seen.append(which)
    assert sorted(seen) == list(range(50))
    assert len(packed.token_BT) <= sum(lengths) / 32 * 1.2
    assert len(pack(documents, 32, end=99, apart=True).token_BT) == 50
    assert (pack([], 32, end=99).kind_BT == NO_LOSS).all()
