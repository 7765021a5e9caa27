"""Splits and shards are pure functions: complete, stratified, stable."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.packing.splits import cut_by_bytes, cut_by_count, cut_evenly, shuffled, split


@given(st.integers(0, 3000), st.integers(0, 2**40))
def test_shuffled_is_a_permutation(count: int, seed: int) -> None:
    assert sorted(shuffled(count, seed).tolist()) == list(range(count))


def test_the_shuffle_never_changes() -> None:
    """Sets packed with an earlier version can be packed again to the same bytes."""
    assert shuffled(10, 0).tolist() == GOLDEN
    assert shuffled(10, 1).tolist() != GOLDEN


GOLDEN = [7, 1, 4, 5, 2, 6, 3, 0, 8, 9]


def test_neighbours_end_up_far_apart() -> None:
    order = shuffled(10_000, 3)
    apart = np.abs(np.diff(np.argsort(order)))
    assert 3000 < apart.mean() < 3700  # A third of the set, as for a random permutation.


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.floats(0, 0.9), st.integers(0, 9))
def test_split_is_stratified_and_complete(labels: list[int], share: float, seed: int) -> None:
    kept, out = split(np.array(labels), share, seed)
    assert sorted([*kept.tolist(), *out.tolist()]) == list(range(len(labels)))
    assert len(out) == round(share * len(labels))
    for name in set(labels):
        of_name = sum(labels[i] == name for i in out.tolist())
        assert abs(of_name - share * labels.count(name)) < 1 + 1e-9


@given(st.integers(1, 500), st.integers(1, 60))
def test_cuts_are_complete(count: int, parts: int) -> None:
    for cut in (cut_by_count(count, parts), cut_evenly(count, parts)):
        assert [i for part in cut for i in part] == list(range(count))
    sizes = [len(part) for part in cut_evenly(count, parts)]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(0, 100), min_size=1, max_size=200), st.integers(1, 300))
def test_no_shard_is_larger_than_asked_for(sizes: list[int], limit: int) -> None:
    cut = cut_by_bytes(sizes, limit)
    assert [i for part in cut for i in part] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in part) <= limit or len(part) == 1 for part in cut)
