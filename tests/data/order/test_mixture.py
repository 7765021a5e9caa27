"""Mixtures keep the order's promises and their weights."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data.order.mixture import PATTERN, MixtureOrder, _apportioned, _spread
from data.order.sample_order import SampleOrder


def mixture(batch: int = 8, lanes: int = 8) -> MixtureOrder:
    sizes = ([40, 60], [30, 30, 30], [500])
    orders = [SampleOrder(s, seed=i, batch_size=batch, lanes=lanes, window=7) for i, s in enumerate(sizes)]
    return MixtureOrder(orders, [1.0, 0.5, 0.1], seed=5)


def test_each_source_comes_by_its_weight_at_once_and_in_the_long_run() -> None:
    order = mixture()
    source = np.array([0, 0, 1, 1, 1, 2])
    drawn = np.concatenate([source[order.batch(t)[:, 0]] for t in range(PATTERN)])
    share = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(share, np.array([1.0, 0.5, 0.1]) / 1.6, atol=1 / PATTERN)
    early = np.bincount(drawn[:800], minlength=3) / 800
    np.testing.assert_allclose(early, share, atol=0.03)


def test_a_source_gives_each_sample_once_an_epoch() -> None:
    order = mixture()
    drawn = Counter(tuple(row) for t in range(20) for row in order.batch(t).tolist() if row[0] < 2)
    assert max(drawn.values()) <= 2  # 20 steps take 100 of the 100 samples; lanes are at most one ahead of each other
    lane = np.zeros(400, dtype=np.int64)
    found = order.at(lane, np.arange(400))
    first = [tuple(row) for row in found[found[:, 0] < 2].tolist()]
    assert len(set(first)) == len(first)


def test_ranks_together_are_the_batch() -> None:
    order = mixture(batch=16)
    for step in (0, 7, 10**9):
        parts = [order.part(step, rank, 4).samples for rank in range(4)]
        np.testing.assert_array_equal(np.concatenate(parts), order.batch(step))


def test_neighbours_number_the_shards_through() -> None:
    order = mixture()
    for position in range(60):
        shard, place, _ = order.at(np.array([3]), np.array([position]))[0].tolist()
        _, runs = order.neighbours(3, position)
        assert any(shard == s and start <= place < stop for s, start, stop in runs)


def test_the_mixture_is_pinned() -> None:
    """A change of these numbers breaks the resuming of every run in progress."""
    orders = [
        SampleOrder([40, 60], seed=3, batch_size=4, lanes=4, window=7),
        SampleOrder([500], seed=4, batch_size=4, lanes=4, window=7),
    ]
    order = MixtureOrder(orders, [3.0, 1.0], seed=9)
    assert [order.batch(step).tolist() for step in (0, 1, 700, 10**6)] == [
        [[1, 45], [2, 327], [0, 33], [2, 81]],
        [[2, 203], [0, 7], [0, 35], [1, 16]],
        [[1, 16], [2, 455], [0, 10], [2, 200]],
        [[1, 39], [2, 456], [0, 24], [2, 207]],
    ]


def test_slots_are_shared_out_to_the_last_one_and_spread_evenly() -> None:
    assert _apportioned([1, 1, 1]) == [342, 341, 341]
    assert _apportioned([0.5, 0.3, 0.2]) == [512, 307, 205]
    assert _apportioned([1023, 1]) == [1023, 1]
    pattern = _spread([768, 256])
    assert np.bincount(pattern).tolist() == [768, 256]
    assert pattern[:12].tolist() == [0, 0, 1, 0] * 3
    orders = [SampleOrder([10], seed=i, batch_size=2) for i in range(2)]
    assert MixtureOrder(orders, [1023, 1], seed=0).slots_of == [1023, 1], "one slot is enough"


def test_a_weight_too_small_to_be_kept_is_refused() -> None:
    orders = [SampleOrder([10], seed=i, batch_size=2) for i in range(2)]
    with pytest.raises(ValueError, match="increase the small ones"):
        MixtureOrder(orders, [1.0, 1e-6], seed=0)


def test_whole_batches_are_those_of_each_source_one_after_the_other() -> None:
    orders = [SampleOrder([40, 24], seed=1, batch_size=8, lanes=4), SampleOrder([30], seed=2, batch_size=8, lanes=4)]
    order = MixtureOrder(orders, [2.0, 1.0], seed=9, whole_batches=True)
    taken = [0, 0]
    for step in range(60):
        batch = order.batch(step)
        (source,) = {int(shard >= 2) for shard in batch[:, 0]}
        expected = orders[source].batch(taken[source])
        assert np.array_equal(batch - [2 * source, 0], expected), step
        taken[source] += 1
        halves = [order.part(step, rank, 2).samples for rank in range(2)]
        assert np.array_equal(np.concatenate(halves), batch)
    assert taken == [40, 20]
