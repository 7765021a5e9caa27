"""Several sample orders mixed by weight, as much a pure function of the step as a single one.

In every lane a fixed pattern of M slots, shifted by lane, says which source the next sample comes from; the number of a
source's slots before a position is the position in that source's own lane. Any M slots hold the exact shares. With
whole batches of one source, the pattern is that of the steps and the same in all lanes.
"""

from collections.abc import Sequence

import numpy as np

from data.order.sample_order import Order, SampleOrder

PATTERN = 1024
"""Slots M of the pattern: weights are rounded to 1 / M."""


class MixtureOrder(Order):
    """`orders` (of one batch size and number of lanes) mixed by `weights`. Shards are numbered through the orders.

    `whole_batches`: each step's samples are of one source, instead of each lane's by a shift of its own.
    ValueError for a weight too small to get one slot in 1024.
    """

    def __init__(
        self, orders: Sequence[SampleOrder], weights: Sequence[float], *, seed: int, whole_batches: bool = False
    ):
        self.orders = list(orders)
        self.batch_size, self.lanes, self.window = orders[0].batch_size, orders[0].lanes, orders[0].window
        self.per_lane = self.batch_size // self.lanes
        counts = [len(order.sizes) for order in orders]
        self.first_shard = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.slots_of = _apportioned(weights)
        if min(self.slots_of) < 1:
            raise ValueError(
                f"data.mixture: weights {list(weights)} differ by more than {PATTERN}: increase the small ones"
            )
        self._pattern = _spread(self.slots_of)
        taken = self._pattern[:, None] == np.arange(len(orders))[None, :]
        self._before = np.concatenate([np.zeros((1, len(orders)), np.int64), np.cumsum(taken, axis=0)])
        self._shift = np.random.Generator(np.random.Philox(seed & (2**63 - 1))).integers(PATTERN, size=self.lanes)
        self._unit = self.per_lane if whole_batches else 1
        """Neighbours in a lane that are of one source."""
        if whole_batches:
            self._shift[:] = self._shift[0]

    def at(self, lanes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Int64 (n, 3): shard, position in the shard and the source's epoch of each (lane, position in the lane)."""
        source, inner = self._source(lanes, positions)
        places = np.empty((len(lanes), 3), dtype=np.int64)
        for which, order in enumerate(self.orders):
            chosen = np.flatnonzero(source == which)
            if len(chosen):
                places[chosen] = order.at(lanes[chosen], inner[chosen])
                places[chosen, 0] += self.first_shard[which]
        return places

    def neighbours(self, lane: int, position: int) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
        """See Order.neighbours: the window of the source at this position."""
        source, inner = self._source(np.array([lane]), np.array([position]))
        which = int(source[0])
        name, runs = self.orders[which].neighbours(lane, int(inner[0]))
        shift = int(self.first_shard[which])
        return (which, *name), [(shard + shift, start, stop) for shard, start, stop in runs]

    def _source(self, lanes: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each position of a lane, and the position in that source's own lane."""
        shift = self._shift[lanes]
        slots, inside = np.divmod(positions, self._unit)
        rounds, place = np.divmod(slots + shift, PATTERN)
        source = self._pattern[place]
        whole = np.asarray(self.slots_of, dtype=np.int64)[source]
        before = rounds * whole + self._before[place, source] - self._before[shift, source]
        return source, before * self._unit + inside


def _apportioned(weights: Sequence[float]) -> list[int]:
    """Slots of each weight, PATTERN together, by largest remainder."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * PATTERN
    slots = np.floor(exact).astype(int)
    most = np.argsort(-(exact - slots), kind="stable")[: PATTERN - int(slots.sum())]
    slots[most] += 1
    return [int(count) for count in slots]


def _spread(slots: Sequence[int]) -> np.ndarray:
    """The pattern: each source's slots at even distances, int64 (PATTERN,)."""
    ideal = np.concatenate([(np.arange(count) + 0.5) / count for count in slots])
    source = np.repeat(np.arange(len(slots)), slots)
    return source[np.lexsort((source, ideal))]
