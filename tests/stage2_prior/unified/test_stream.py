"""Batches of packed rows: the same on any ranks and after a resume, with exact shares and drawn directions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from data.config import CodeDataConfig
from launch.command.cli import UserError
from stage2_prior.config.unified import UnifiedConfig
from stage2_prior.unified.draws import drawn
from stage2_prior.unified.stream import UnifiedBatch, UnifiedStream, every_unified
from tests.stage2_prior.unified.tiny import PICTURES, SOUNDS, vocabulary, write_codes, write_texts


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("sets")
    captions = [f"a{'b' * i}" for i in range(11)] + [""]
    return [
        write_codes(folder / "pictures", PICTURES, captions),
        write_codes(folder / "sounds", SOUNDS, captions, seed=1),
        write_texts(folder / "texts", [f"line {i}\n" + "x" * (7 * i) for i in range(10)]),
    ]


def stream(sets: list[Any], rank: int = 0, world_size: int = 1, **settings: Any) -> UnifiedStream:
    mixture = {str(index.path): weight for index, weight in zip(sets[1:], (0.5, 0.5), strict=False)}
    data = CodeDataConfig(index=str(sets[0].path), mixture=mixture, batch_size=8, threads=1)
    config = UnifiedConfig(length=40, **settings)
    ranks = {"rank": rank, "world_size": world_size}
    return UnifiedStream(data, config, sets, vocabulary(), seed=3, draw_seed=4, dropout=0.3, **ranks)


def taken(batches: UnifiedStream, start: int, count: int) -> list[UnifiedBatch]:
    with batches:
        return [batch for batch, _ in zip(batches.batches(start), range(count), strict=False)]


def documents(batches: list[UnifiedBatch]) -> Counter[tuple[tuple[int, int], ...]]:
    """The documents of some batches, whatever their rows."""
    found: Counter[tuple[tuple[int, int], ...]] = Counter()
    for packed in (batch.packed for batch in batches):
        for row in zip(packed.token_BT, packed.document_BT, packed.kind_BT, strict=True):
            token_T, document_T, kind_T = row
            for number in document_T.unique():
                inside = document_T == number
                if (kind_T[inside] >= 0).any():
                    found[tuple(zip(token_T[inside].tolist(), kind_T[inside].tolist(), strict=True))] += 1
    return found


def test_two_ranks_read_together_what_one_reads_and_a_resume_goes_on(sets: list[Any]) -> None:
    alone = taken(stream(sets), 0, 4)
    halves = [taken(stream(sets, rank, 2), 0, 4) for rank in range(2)]
    for step, whole in enumerate(alone):
        assert documents([whole]) == documents([half[step] for half in halves])
        assert sum(half[step].samples for half in halves) == whole.samples == 8
    resumed = taken(stream(sets), 2, 2)
    for first, again in zip(alone[2:], resumed, strict=True):
        for name in ("token_BT", "document_BT", "kind_BT"):
            assert torch.equal(getattr(first.packed, name), getattr(again.packed, name))


def test_shares_of_the_sets_are_exact_and_texts_go_on_in_pieces(sets: list[Any]) -> None:
    known = vocabulary()
    (batch,) = taken(stream(sets), 0, 1)
    tokens = batch.packed.token_BT.flatten().tolist()
    assert [tokens.count(block.opening) for block in known.blocks] == [4, 2]
    assert tokens.count(known.begin) == 8
    with pytest.raises(UserError, match=r"4, 2, 2 samples a step, each of which must be a multiple of the 4 ranks"):
        stream(sets, 0, 4)


def test_directions_and_dropped_texts_follow_their_weights() -> None:
    draws = drawn(1, 2, 4000, {"text_to_media": 1.0, "media_to_text": 3.0, "both": 0.0}, dropout=0.25)
    shares = Counter(one.direction for one in draws)
    assert shares["both"] == 0
    assert abs(shares["media_to_text"] / 4000 - 0.75) < 0.03
    assert abs(sum(one.dropped for one in draws) / 4000 - 0.25) < 0.03
    assert draws == drawn(1, 2, 4000, {"text_to_media": 1.0, "media_to_text": 3.0, "both": 0.0}, dropout=0.25)
    assert draws != drawn(1, 3, 4000, {"text_to_media": 1.0, "media_to_text": 3.0, "both": 0.0}, dropout=0.25)


def test_every_sample_comes_once(sets: list[Any]) -> None:
    known = vocabulary()
    keys = [
        key for rank in range(2) for batch, _ in every_unified(sets[0], known, rank=rank, world_size=2) for key in batch
    ]
    assert sorted(keys) == [f"{i:03d}" for i in range(12)]
    samples = [one for _, batch in every_unified(sets[2], known, batch_size=4) for one in batch]
    assert [known.decode_text(one[0].ids) for one in samples] == [f"line {i}\n" + "x" * (7 * i) for i in range(10)]
