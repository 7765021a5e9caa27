from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from launch.command.cli import UserError
from stage2_prior.codes.vocabulary import Vocabulary

SHAPES = Vocabulary(16, ("circle", "square", "star"))


def test_codes_come_first_then_classes_then_the_null_token():
    assert SHAPES.class_tokens(torch.tensor([0, 2, -1])).tolist() == [16, 18, 19]
    assert (SHAPES.null, SHAPES.size) == (19, 20)
    assert SHAPES.codes == 16 and SHAPES.size == 20


def test_a_mask_token_is_there_only_where_asked_for():
    masked = Vocabulary(16, ("circle",), masked=True)
    assert (masked.mask, masked.size) == (18, 19)
    with pytest.raises(ValueError, match="masked=True"):
        _ = SHAPES.mask


@given(st.integers(1, 10**6), st.lists(st.text(max_size=8), max_size=5), st.booleans())
def test_round_trip_through_json(codes: int, names: list[str], masked: bool):
    vocabulary = Vocabulary(codes, tuple(names), masked)
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    tokens = vocabulary.class_tokens(torch.arange(-1, len(names))).tolist()
    everything = [*tokens, *([vocabulary.mask] if masked else [])]
    assert sorted(everything) == list(range(vocabulary.codes, vocabulary.size))


@pytest.mark.parametrize(("wanted", "label"), [("star", 2), ("1", 1), (0, 0)])
def test_classes_go_by_name_and_number(wanted: str | int, label: int):
    assert SHAPES.label(wanted) == label


@pytest.mark.parametrize("wrong", ["triangle", "3", "-1", 7])
def test_a_wrong_class_is_told_with_what_is_allowed(wrong: str | int):
    with pytest.raises(UserError, match=r"use 0 to 2, or a name \(circle, square, star\)") as caught:
        SHAPES.label(wrong)
    assert "\n" not in str(caught.value)


def test_labels_outside_the_classes_are_refused():
    for label in (-1, 0, 2):
        SHAPES.check_label(label)
    with pytest.raises(UserError, match=r"class id 3 .*allowed: 0 to 2;"):
        SHAPES.check_label(3)
