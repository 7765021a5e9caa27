"""The order's promises, over shard sizes, lanes, windows and world sizes."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order.sample_order import SampleOrder, divisors, permute


@st.composite
def orders(draw: st.DrawFn) -> SampleOrder:
    lanes = draw(st.integers(1, 12))
    batch = lanes * draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(lambda s: sum(s) >= lanes))
    window, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**70))
    return SampleOrder(sizes, seed=seed, batch_size=batch, lanes=lanes, window=window)


def epoch_of(order: SampleOrder, epoch: int) -> list[tuple[int, int]]:
    """All samples of one epoch, lane after lane."""
    lanes = np.repeat(np.arange(order.lanes), order.lane_length)
    inside = np.tile(np.arange(order.lane_length), order.lanes)
    found = order.at(lanes, inside + epoch * order.lane_length)
    assert (found[:, 2] == epoch).all()
    return [(s, p) for s, p, _ in found.tolist()]


@settings(max_examples=100)
@given(orders(), st.integers(0, 10**9))
def test_every_sample_at_most_once_an_epoch_and_few_left_out(order: SampleOrder, epoch: int) -> None:
    seen = Counter(epoch_of(order, epoch))
    assert max(seen.values()) == 1
    assert order.samples - len(seen) == order.samples % order.lanes
    assert all(0 <= position < order.sizes[shard] for shard, position in seen)


@settings(max_examples=100)
@given(orders(), st.integers(0, 10**9))
def test_ranks_together_are_the_batch_for_every_allowed_world_size(order: SampleOrder, step: int) -> None:
    whole = order.batch(step)
    assert whole.shape == (order.batch_size, 2)
    for world_size in divisors(order.lanes):
        parts = [order.part(step, rank, world_size).samples for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@settings(max_examples=40)
@given(orders())
def test_batches_in_a_row_give_each_epoch_once(order: SampleOrder) -> None:
    steps = -(-3 * order.lane_length // order.per_lane)
    given_out = np.concatenate([order.batch(t).reshape(order.lanes, order.per_lane, 2) for t in range(steps)], axis=1)
    for epoch in range(3):
        part = given_out[:, epoch * order.lane_length : (epoch + 1) * order.lane_length].reshape(-1, 2)
        assert sorted(map(tuple, part.tolist())) == sorted(epoch_of(order, epoch))


@settings(max_examples=40)
@given(orders(), st.integers(0, 200), st.data())
def test_neighbours_hold_the_samples_of_their_window(order: SampleOrder, position: int, data: st.DataObject) -> None:
    lane = data.draw(st.integers(0, order.lanes - 1))
    name, runs = order.neighbours(lane, position)
    same = [p for p in range(max(0, position - 45), position + 45) if order.neighbours(lane, p)[0] == name]
    found = order.at(np.full(len(same), lane), np.array(same))
    expected = [(shard, i) for shard, start, stop in runs for i in range(start, stop)]
    assert sorted(expected) == sorted((s, p) for s, p, _ in found.tolist())


@settings(max_examples=100)
@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(count: int, key: int) -> None:
    image = permute(np.arange(count), np.full(count, count), np.full(count, key, dtype=np.uint64))
    assert sorted(image.tolist()) == list(range(count))


@pytest.mark.parametrize("count", [2, 3, 5, 16, 17, 25, 32, 100])
def test_permute_sends_every_place_everywhere_about_equally(count: int) -> None:
    keys = np.arange(20_000, dtype=np.uint64) * np.uint64(7919)
    for place in {0, count // 2, count - 1}:
        image = permute(np.full(len(keys), place), np.full(len(keys), count), keys)
        expected = len(keys) / count
        chi2 = ((np.bincount(image, minlength=count) - expected) ** 2 / expected).sum()
        assert chi2 < (count - 1) + 6 * np.sqrt(2 * (count - 1))


def test_the_left_over_samples_differ_from_epoch_to_epoch_even_with_one_shard() -> None:
    order = SampleOrder([103], seed=3, batch_size=10)
    everything = {(0, i) for i in range(103)}
    left = {frozenset(everything - set(epoch_of(order, epoch))) for epoch in range(10)}
    assert len(left) > 5


def test_a_late_step_takes_no_longer_than_the_first() -> None:
    def seconds(step: int) -> float:
        best = float("inf")
        for _ in range(5):
            order = SampleOrder([1000] * 5000, seed=1, batch_size=1024)
            began = time.perf_counter()
            order.batch(step)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(10**9) < 3 * seconds(0) + 0.005


def test_other_seeds_epochs_and_lanes_give_other_orders() -> None:
    first = SampleOrder([50] * 20, seed=1, batch_size=10)
    assert not np.array_equal(first.batch(0), SampleOrder([50] * 20, seed=2, batch_size=10).batch(0))
    assert epoch_of(first, 0) != epoch_of(first, 1)


def test_the_order_is_pinned() -> None:
    """A change of these numbers breaks the resuming of every run in progress."""
    order = SampleOrder([50, 70, 40], seed=42, batch_size=4, window=30)
    assert order.batch(0).tolist() == PINNED[0]
    assert order.batch(1000).tolist() == PINNED[1]

    order = SampleOrder([50, 70, 40], seed=2**65 + 7, batch_size=6, lanes=3, window=30)
    assert [order.batch(step).tolist() for step in (0, 20, 10**9)] == [
        [[1, 7], [1, 8], [1, 59], [1, 58], [0, 2], [0, 4]],
        [[1, 27], [1, 32], [1, 65], [2, 15], [0, 15], [0, 23]],
        [[1, 28], [1, 14], [2, 8], [1, 63], [0, 22], [2, 38]],
    ]


def test_permutations_are_pinned_below_and_above_the_size_where_their_way_changes() -> None:
    wanted = {
        15: [4, 13, 5, 10, 11, 0, 2, 9, 14, 6, 8, 3, 7, 1, 12],
        16: [5, 14, 6, 11, 12, 0, 3, 10, 15, 7, 9, 4, 8, 1, 13, 2],
        17: [8, 11, 6, 14, 13, 10, 3, 15, 5, 4, 12, 7, 1, 9, 2, 0, 16],
    }
    for count, image in wanted.items():
        found = permute(np.arange(count), np.full(count, count), np.full(count, 5, dtype=np.uint64))
        assert found.tolist() == image


PINNED = [
    [[0, 29], [1, 30], [1, 67], [2, 27]],
    [[1, 67], [0, 39], [2, 23], [1, 18]],
]


@pytest.mark.parametrize(
    ("lanes", "batch", "samples", "words"),
    [
        (3, 8, 100, "1, 2, 4 or 8"),
        (8, 8, 5, "1, 2 or 4"),
    ],
)
def test_wrong_lanes_are_answered_with_those_that_would_do(lanes: int, batch: int, samples: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SampleOrder([samples], seed=0, batch_size=batch, lanes=lanes)


def test_lanes_that_fit_the_ranks_are_named() -> None:
    with pytest.raises(ValueError, match=r"run on 1, 2 or 4 ranks, or set data\.lanes to one of 3, 6 or 12$"):
        SampleOrder([1000], seed=0, batch_size=12, lanes=4).part(0, 0, 3)


def test_more_ranks_than_samples_of_a_batch_have_a_way_out_too() -> None:
    with pytest.raises(ValueError, match=r"set data\.lanes and data\.batch_size to 5$"):
        SampleOrder([1000], seed=0, batch_size=2).part(0, 0, 5)


def test_numbers_out_of_range_are_refused() -> None:
    for changes in ({"batch_size": 0}, {"window": 0}, {"lanes": 0}, {"batch_size": -2}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            SampleOrder([9], seed=0, **{"batch_size": 2, **changes})
    with pytest.raises(ValueError, match=r"data\.lanes=2 is more than the 0 samples there are: add samples"):
        SampleOrder([0], seed=0, batch_size=2)
    assert SampleOrder([1], seed=0, batch_size=1, window=1).batch(3).tolist() == [[0, 0]]
    assert SampleOrder([2], seed=0, batch_size=2, lanes=2).lane_length == 1, "as many lanes as samples"
    order = SampleOrder([9], seed=0, batch_size=2)
    for step, rank, world_size in ((-1, 0, 1), (0, -1, 2), (0, 2, 2), (0, 1, 1)):
        with pytest.raises(ValueError, match=f"step={step} must not be negative and rank={rank} must be in 0"):
            order.part(step, rank, world_size)


def test_long_lists_of_ways_out_are_cut_in_the_middle() -> None:
    with pytest.raises(ValueError) as twelve:
        SampleOrder([9], seed=0, batch_size=60, lanes=7)
    assert str(twelve.value).endswith("set data.lanes to one of 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60")
    with pytest.raises(ValueError) as fifteen:
        SampleOrder([9], seed=0, batch_size=144, lanes=7)
    assert str(fifteen.value).endswith("set data.lanes to one of 1, 2, 3, 4, 6, 8, …, 18, 24, 36, 48, 72 or 144")
    with pytest.raises(ValueError, match=r"set data\.lanes to one of 1$"):
        SampleOrder([1], seed=0, batch_size=60, lanes=60)


@pytest.mark.parametrize("number", [1, 2, 12, 16, 36, 97, 144])
def test_divisors_are_all_there_are_in_order(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_wrong_world_sizes_are_answered_with_those_that_would_do() -> None:
    with pytest.raises(ValueError, match=r"run on 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or 96 ranks, or .* 95 or 100"):
        SampleOrder([1000], seed=0, batch_size=96).part(0, 0, 5)
