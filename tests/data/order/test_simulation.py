"""The simulation's figures, where they are known."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from data.order import simulation
from data.order.sample_order import SampleOrder
from data.order.simulation import simulate, table
from data.simulate import SimulateConfig


def test_figures_of_a_small_cluster() -> None:
    figures = simulate(shards=50, samples=1000, sample_bytes=100_000, ranks=5, window=256)
    for part in (figures["local"], figures["streamed"]):
        assert part["samples_per_rank_least"] * 5 + part["left_out"] == figures["samples"]
        assert part["left_out"] < part["lanes"]
        fair = figures["bytes"] / 5
        assert 0.75 * fair < part["bytes_per_rank_least"] <= part["bytes_per_rank_most"] < 1.25 * fair
    local, streamed = figures["local"], figures["streamed"]
    assert local["lanes"] == 80 and streamed["lanes"] == 5
    assert local["neighbours_apart_median_steps"] > 0.15 * local["steps_per_epoch"]
    assert streamed["shards_open_most"] <= 2
    assert streamed["memory_per_rank_megabytes"] == pytest.approx(2 * 256 * 0.1)
    assert "0.00%" in table(figures)


class Everything:
    """In place of a random generator: draws all there is to draw, in turns."""

    def __init__(self) -> None:
        self.turn = -1

    def choice(self, count: int, size: int, replace: bool) -> np.ndarray:
        assert not replace and size <= count
        return np.arange(size)

    def integers(self, bound: int, size: int | None = None) -> Any:
        if size is not None:
            return np.arange(size) % bound
        self.turn += 1
        return self.turn // 2 % bound if self.turn % 2 else self.turn // 40 % bound


def plain_ring(order: SampleOrder) -> list[tuple[int, int]]:
    """The first epoch's samples in a row, from where lane 0 begins: shard and place in it."""
    plan = order.plan(0)
    ring = [(shard, place) for shard in plan.shards.tolist() for place in range(order.sizes[shard])]
    return [ring[(plan.offset + number) % len(ring)] for number in range(len(ring))]


@pytest.mark.parametrize(("ranks", "lanes", "seed"), [(2, 4, 0), (3, 6, 1), (1, 2, 2)])
def test_figures_are_those_of_counting_by_hand(ranks: int, lanes: int, seed: int) -> None:
    sizes, weight = np.array([5, 19, 4, 12, 27, 1]), np.array([10.0, 20.0, 35.0, 1.0, 3.0, 7.0])
    order = SampleOrder(sizes, seed=seed, batch_size=2 * lanes, lanes=lanes, window=5)
    ring, length, own = plain_ring(order), order.lane_length, lanes // ranks

    loads = [
        sum(weight[shard] for shard, _ in ring[rank * own * length : (rank + 1) * own * length])
        for rank in range(ranks)
    ]
    assert simulation._rank_bytes(order, weight, ranks) == pytest.approx(loads)

    opened = []
    for rank in range(ranks):
        for step in range(8):
            shards = set()
            for lane in range(rank * own, (rank + 1) * own):
                first = step % max(1, length // 2) * 2 // 5 * 5
                shards |= {shard for shard, _ in ring[lane * length + first : lane * length + min(first + 5, length)]}
            opened.append(len(shards))
    assert simulation._open_at_once(order, ranks, Everything()) == opened  # type: ignore[arg-type]

    apart, generator = [], Everything()
    for _ in range(256):
        lane, first = generator.integers(lanes), generator.integers(length) // 5 * 5
        inside = range(first, min(first + 5, length))
        step_of = {tuple(order.at(np.array([lane]), np.array([place]))[0, :2].tolist()): place // 2 for place in inside}
        apart += [
            abs(step_of[shard, place + 1] - step)
            for (shard, place), step in step_of.items()
            if (shard, place + 1) in step_of
        ]
    assert sorted(simulation._neighbour_steps(order, Everything()).tolist()) == sorted(apart)  # type: ignore[arg-type]

    total = float((sizes * weight).sum())
    found = simulation._streamed(order, sizes, weight, ranks, 1_000_000)
    walked = sum(ring[lane * length][1] * weight[ring[lane * length][0]] for lane in range(lanes))
    assert found["reread_share_without_offsets"] == pytest.approx(walked / total)
    shared = [ring[rank * own * length] for rank in range(ranks)]
    again = sum(sizes[shard] * weight[shard] for shard, place in shared if place)
    assert found["reread_share_with_whole_shards"] == pytest.approx(again / total)
    assert found["reread_share_with_offsets"] == 0
    assert found["memory_per_rank_megabytes"] == 2 * own * 5


@pytest.mark.parametrize("seed", range(12))
def test_what_ranks_read_is_counted_wherever_they_begin(seed: int) -> None:
    """Shards of one to three samples, so that a rank often begins with a shard, and with the first one."""
    sizes, weight = np.array([1, 3, 2, 1, 3]), np.array([10.0, 20.0, 35.0, 1.0, 3.0])
    order = SampleOrder(sizes, seed=seed, batch_size=3, window=5)
    ring, length = plain_ring(order), order.lane_length
    loads = [sum(weight[shard] for shard, _ in ring[rank * length : (rank + 1) * length]) for rank in range(3)]
    assert simulation._rank_bytes(order, weight, 3) == pytest.approx(loads)
    shared = [ring[rank * length] for rank in range(3)]
    again = sum(sizes[shard] * weight[shard] for shard, place in shared if place)
    found = simulation._streamed(order, sizes, weight, 3, 1)
    assert found["reread_share_with_whole_shards"] == pytest.approx(again / (sizes * weight).sum())


def test_what_is_simulated_is_what_was_asked_for() -> None:
    figures = simulate(shards=300, samples=100, sample_bytes=1000, ranks=4, window=8, batch_size=24, lanes=12, seed=3)
    assert figures["batch"] == 24 and figures["samples"] == pytest.approx(300 * 100, rel=0.02)
    assert figures["bytes"] == pytest.approx(300 * 100 * 1000, rel=0.03)
    for name, lanes, window in (("local", 24, 4096), ("streamed", 12, 8)):
        part, of_lane = figures[name], figures["samples"] // lanes
        assert (part["lanes"], part["window"]) == (lanes, window)
        assert part["samples_per_rank_least"] == part["samples_per_rank_most"] == of_lane * (lanes // 4)
        assert part["left_out"] == figures["samples"] % lanes
        assert part["steps_per_epoch"] == of_lane / (24 // lanes)
        assert 1 <= part["shards_open_mean"] <= part["shards_open_most"]
        assert 0 <= part["neighbours_in_one_batch_share"] <= 1
    assert figures["local"]["page_share"] == 4.096 and figures["local"]["reread_share"] == 0
    text = table(figures)
    for words in ("24, 4096", "12, 8", f"{figures['samples']:,} samples", "global batch 24", "409.60%"):
        assert words in text, words
    assert simulate(shards=9, samples=100, sample_bytes=1000, ranks=2, window=8)["batch"] == 32


def test_a_hundred_thousand_shards_take_under_a_minute() -> None:
    began = time.monotonic()
    words = ["--shards", "100000", "--ranks", "4096", "--json"]
    done = subprocess.run([sys.executable, "-m", "data.simulate", *words], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 60
    figures = json.loads(done.stdout)
    assert figures["local"]["reread_share"] == 0 and figures["peak_megabytes"] < 500


def test_wrong_numbers_are_one_line() -> None:
    with pytest.raises(ValueError, match="batch_size=10 is not a multiple of ranks=4"):
        SimulateConfig(ranks=4, batch_size=10)


@pytest.mark.parametrize("name", ["batch_size", "lanes", "window", "seed"])
def test_a_number_out_of_range_is_named(name: str) -> None:
    value = -1 if name == "seed" else 0
    with pytest.raises(ValueError, match=f"{name}={value} is out of range"):
        SimulateConfig(ranks=2, **{name: value})
