"""The vocabulary of a unified prior: blocks, spans, marks, and texts that look like special tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from launch.command.cli import UserError
from stage2_prior.codes.unified import UnifiedVocabulary, block_names
from stage2_prior.priors.tokenizer_files import read_text_tokenizer, write_tokenizer
from tests.stage2_prior.unified.tiny import PICTURES, SOUNDS, VIDEOS, letters, vocabulary


def test_texts_come_first_and_blocks_follow_in_order() -> None:
    known = vocabulary()
    picture, sound = known.blocks
    assert known.texts == 256 + 11
    assert (picture.first, sound.first, known.size) == (267, 267 + 24, 267 + 24 + 16)
    again = UnifiedVocabulary.from_dict(known.to_dict(), letters())
    assert again.blocks == known.blocks
    assert known.block_of(SOUNDS) is sound


def test_kinds_of_tokens_are_exact() -> None:
    known = vocabulary()
    kinds = list(known.kinds)
    tokens = [*known.encode_text("hé"), known.end, known.begin, known.blocks[0].opening, 267, 266 + 24, 267 + 24, 306]
    named = [kinds[number] for number in known.kind_of(torch.tensor(tokens))]
    assert named == ["text"] * 4 + ["marks"] * 2 + ["picture"] * 2 + ["sound"] * 2
    assert sum(known.kinds.values()) == known.size


def test_a_text_that_looks_like_a_special_token_is_a_text(tmp_path: Path) -> None:
    known = vocabulary()
    text = "see <picture> and </s>, naïve"
    tokens = known.encode_text(text)
    assert len(tokens) == len(text.encode())
    assert known.decode_text(tokens) == text
    write_tokenizer(known, tmp_path)
    again = UnifiedVocabulary.from_dict(known.to_dict(), read_text_tokenizer(tmp_path, known.texts))
    assert again.encode_text(text) == tokens, "the release's tokenizer, which reads marks, is no other one here"


@pytest.mark.parametrize("delayed", [False, True])
def test_codes_of_several_levels_go_into_a_span_and_back(delayed: bool) -> None:
    block = vocabulary(SOUNDS, delayed=delayed).blocks[0]
    codes_B = torch.randint(8, (3, 10), generator=torch.Generator().manual_seed(0))
    tokens_B = block.tokens(codes_B)
    books = (tokens_B[0] - block.first) // 8
    assert books.tolist() == ([0, 0, 1, 0, 1, 0, 1, 0, 1, 1] if delayed else [0, 1] * 5)
    assert torch.equal(block.codes_of(tokens_B), codes_B)
    for place in range(block.length):
        low, high = block.allowed(place)
        assert low == block.first + 8 * books[place]
        assert high == low + 8
    assert block.allowed(block.length) == (block.closing, block.closing + 1)
    place = books.tolist().index(1)
    assert int(tokens_B[0, place]) == block.first + 8 + int(codes_B[0, 5]), "codebook 1 begins at its place 0"


def test_rows_and_frames_end_with_marks() -> None:
    block = vocabulary(VIDEOS, rows=True).blocks[0]
    marks = block.span().marks_S.tolist()
    assert marks == [-1, -1, -1, block.row, -1, -1, -1, block.frame] * 2
    codes = np.arange(12).reshape(2, 2, 3) % 6
    assert np.array_equal(block.span().read(block.span().write(codes), VIDEOS), codes)
    other = np.arange(8).reshape(2, 4, 1) % 6
    assert block.span((2, 4, 1)).length == 16
    assert np.array_equal(block.span((2, 4, 1)).read(block.span((2, 4, 1)).write(other), VIDEOS), other)
    with pytest.raises(ValueError, match="rows=true"):
        vocabulary(VIDEOS).blocks[0].span((2, 4, 1))


def test_wrong_tokens_in_a_span_are_refused() -> None:
    span = vocabulary().blocks[0].span()
    good = span.write(np.zeros((3, 4), dtype=np.int64))
    for bad in (good[:-1], np.where(np.arange(12) == 5, good + 24, good)):
        with pytest.raises(UserError, match="a span of"):
            span.read(bad, PICTURES)


def test_blocks_are_named_by_their_kind_and_tokenizers_are_blocks_once() -> None:
    from dataclasses import replace

    other = replace(PICTURES, tokenizer="q" * 64)
    wide = replace(PICTURES, grid=(3, 8))
    assert list(block_names([PICTURES, SOUNDS, other, wide])) == ["picture", "sound", "picture2"]
    with pytest.raises(UserError, match="no place"):
        block_names([replace(PICTURES, transform={"kind": "smells"})])
