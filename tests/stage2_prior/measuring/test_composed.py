"""Composed pictures are checked cell by cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.shards.index import ShardIndex
from launch.command.cli import UserError
from stage2_prior.measuring import composed
from stage2_prior.measuring.composed import CellClassifier, Composition

PLACES = {"left": (0, 0), "right": (0, 8)}
WORDS = ("bar", "line", "dot")
SET = Composition(WORDS, PLACES, 8)


def pictures(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Noisy pictures of one or two of three things, and their sentences."""
    random = np.random.default_rng(seed)
    pixels_BCHW = random.integers(0, 60, (count, 1, 8, 16), dtype=np.uint8)
    sentences = []
    for picture_HW in pixels_BCHW[:, 0]:
        said = []
        for place, (_, column) in PLACES.items():
            if (label := int(random.integers(4))) == 3 and (said or place == "left"):
                continue
            cell_HW = picture_HW[:, column : column + 8]
            cell_HW[(np.s_[:, 3:5], np.s_[3:5], np.s_[2:5, 2:5])[label % 3]] = 250
            said.append(f"a {WORDS[label % 3]} at the {place}")
        sentences.append(" and ".join(said))
    return pixels_BCHW, sentences


def test_a_sentence_says_what_is_where() -> None:
    assert SET.said("a dot at the right") == [3, 2]
    assert replace(SET, nothing="none").said("none at the left, line at the right") == [3, 1]
    assert SET.said("a bar at the left and a line at the right") == [0, 1]
    with pytest.raises(UserError, match="'star' at the left"):
        SET.said("a star at the left")
    with pytest.raises(UserError, match="says of no place"):
        SET.said("a bar")


def test_cells_are_classified_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composed, "EPOCHS", 20)
    monkeypatch.setattr(composed, "BATCH", 16)
    training = pictures(60, 0)
    state = torch.random.get_rng_state()
    classifier = CellClassifier(SET, *training)
    assert torch.equal(torch.random.get_rng_state(), state)
    pixels_BCHW, sentences = pictures(50, 1)
    seen_BP = classifier.seen(pixels_BCHW)
    assert (seen_BP == SET.labels(sentences)).all(1).double().mean() > 0.95
    swapped_BP = classifier.seen(np.concatenate([pixels_BCHW[..., 8:], pixels_BCHW[..., :8]], axis=-1))
    assert torch.equal(swapped_BP, seen_BP.flip(1))
    assert torch.equal(CellClassifier(SET, *training).seen(pixels_BCHW), seen_BP)


def test_an_index_says_what_its_pictures_are_composed_of() -> None:
    assert Composition.of(ShardIndex(())) is None
    meta = {"composed": {"words": list(WORDS), "places": {name: list(at) for name, at in PLACES.items()}, "cell": 8}}
    assert Composition.of(ShardIndex((), meta=meta)) == SET
    with pytest.raises(UserError, match=r"meta\.composed can't be read"):
        Composition.of(ShardIndex((), meta={"composed": {"words": 3}}))
