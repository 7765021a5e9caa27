"""Which sample comes when: a pure function of the shard sizes, a seed and the step. No I/O, no torch, no state.

Epoch e reads the shards, permuted by (seed, e), as one ring of N samples from an offset drawn from (seed, e), cut into
R lanes of L = N // R neighbours. At step t each lane contributes b = B / R samples: positions [t·b, (t + 1)·b) of its
endless sequence. Inside a lane, windows of w samples are permuted by (seed, e, lane, window).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

_MASK = (1 << 64) - 1
_ROUNDS = 6
_SMALL = 16
_KEPT_EPOCHS = 4


class Part(NamedTuple):
    """One rank's share of a step's batch, in order."""

    lanes: np.ndarray
    """Int64 (B / W,): the lane that each sample comes from."""
    positions: np.ndarray
    """Int64 (B / W,): its position in that lane's endless sequence."""
    places: np.ndarray
    """Int64 (B / W, 3): its shard, position in the shard and epoch."""

    @property
    def samples(self) -> np.ndarray:
        """Int64 (B / W, 2): shard and position in the shard."""
        return self.places[:, :2]


class Order(Protocol):
    """What a stream needs to know of an order: SampleOrder for one set, MixtureOrder for several."""

    batch_size: int
    lanes: int
    per_lane: int
    window: int

    def batch(self, step: int) -> np.ndarray:
        """Int64 (B, 2): shard and position in the shard of each sample of the global batch."""
        return self.part(step).samples

    def part(self, step: int, rank: int = 0, world_size: int = 1) -> Part:
        """One rank's share of the batch; the shares of all ranks, in order, are the batch. O(1) in the step.

        ValueError unless the ranks divide the lanes.
        """
        if step < 0 or not 0 <= rank < world_size:
            raise ValueError(f"step={step} must not be negative and rank={rank} must be in 0..{world_size - 1}")
        if self.lanes % world_size:
            batch = self.batch_size
            fitting = [d for d in divisors(batch) if d % world_size == 0]
            nearest = sorted({max(1, batch // world_size) * world_size, (batch // world_size + 1) * world_size})
            names = "data.lanes to one of" if fitting else "data.lanes and data.batch_size to"
            raise ValueError(
                f"data.lanes={self.lanes} is not a multiple of the {world_size} ranks: run on "
                f"{_listed(divisors(self.lanes))} ranks, or set {names} {_listed(fitting or nearest)}"
            )
        own = self.lanes // world_size
        lane = np.repeat(np.arange(rank * own, (rank + 1) * own, dtype=np.int64), self.per_lane)
        position = np.tile(step * self.per_lane + np.arange(self.per_lane, dtype=np.int64), own)
        return Part(lane, position, self.at(lane, position))

    def at(self, lanes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Int64 (n, 3): shard, position in the shard and epoch of each (lane, position in the lane's sequence)."""
        ...

    def neighbours(self, lane: int, position: int) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
        """The window around a lane's position: its name, and the (shard, start, stop) runs that it consists of."""
        ...


class EpochPlan(NamedTuple):
    """One epoch's shards in their order."""

    shards: np.ndarray
    """Shard numbers, int64 (S,)."""
    starts: np.ndarray
    """Where each begins in the epoch's sequence, int64 (S + 1,)."""
    offset: int
    """Where lane 0 begins."""


def divisors(number: int) -> list[int]:
    """All divisors of a positive number, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


class SampleOrder(Order):
    """The order of the samples of one set of shards.

    `shard_sizes` are the samples in each shard; `batch_size` is the global batch B; `lanes` R (default B) must divide
    B and not exceed the samples; `window` w is the range of the shuffle inside a lane. ValueError says what fits.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int] | np.ndarray,
        *,
        seed: int,
        batch_size: int,
        lanes: int | None = None,
        window: int = 4096,
    ):
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.samples = int(self.sizes.sum())
        self.seed, self.batch_size, self.window = seed, batch_size, window
        self.lanes = batch_size if lanes is None else lanes
        if batch_size < 1 or window < 1 or self.lanes < 1:
            raise ValueError(f"batch_size={batch_size}, lanes={self.lanes} and window={window} must be 1 or more")
        if batch_size % self.lanes:
            raise ValueError(
                f"data.lanes={self.lanes} does not divide data.batch_size={batch_size}: "
                f"set data.lanes to one of {_listed(divisors(batch_size))}"
            )
        if self.samples < self.lanes:
            fitting = [d for d in divisors(batch_size) if d <= self.samples]
            way_out = f"set data.lanes to one of {_listed(fitting)}" if fitting else "add samples"
            raise ValueError(f"data.lanes={self.lanes} is more than the {self.samples} samples there are: {way_out}")
        self.lane_length = self.samples // self.lanes
        self.per_lane = batch_size // self.lanes
        self.plan = lru_cache(_KEPT_EPOCHS)(self._plan)

    @property
    def steps_per_epoch(self) -> float:
        """Steps that one pass over the samples takes."""
        return self.lane_length / self.per_lane

    def at(self, lanes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Int64 (n, 3): shard, position in the shard and epoch of each (lane, position in its endless sequence)."""
        places = np.empty((len(lanes), 3), dtype=np.int64)
        epochs, inside = np.divmod(positions, self.lane_length)
        places[:, 2] = epochs
        for epoch in np.unique(epochs).tolist():
            chosen = np.flatnonzero(epochs == epoch)
            shuffled = self._shuffle(epoch, lanes[chosen], inside[chosen])
            plan = self.plan(epoch)
            ring = (plan.offset + lanes[chosen] * self.lane_length + shuffled) % self.samples
            place = np.searchsorted(plan.starts, ring, side="right") - 1
            places[chosen, 0] = plan.shards[place]
            places[chosen, 1] = ring - plan.starts[place]
        return places

    def neighbours(self, lane: int, position: int) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
        """The window that holds a lane's `position`: (lane, epoch, number) and its (shard, start, stop) runs.

        A streaming reader fetches these neighbours in one read and returns them in the window's order.
        """
        epoch, inside = divmod(position, self.lane_length)
        number = inside // self.window
        first = number * self.window
        plan = self.plan(epoch)
        ring = (plan.offset + lane * self.lane_length + first) % self.samples
        left = min(self.window, self.lane_length - first)
        runs = []
        while left:
            place = int(np.searchsorted(plan.starts, ring, side="right")) - 1
            start = ring - int(plan.starts[place])
            taken = min(left, int(plan.starts[place + 1]) - ring)
            runs.append((int(plan.shards[place]), start, start + taken))
            left -= taken
            ring = (ring + taken) % self.samples
        return (lane, epoch, number), runs

    def _plan(self, epoch: int) -> EpochPlan:
        """How an epoch puts the shards in a row."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([_key(self.seed, epoch)])))
        shards = rng.permutation(len(self.sizes)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(self.sizes[shards])])
        # With the offset, other N mod R samples are left over in every epoch, also with a single shard.
        return EpochPlan(shards, starts, int(rng.integers(self.samples)))

    def _shuffle(self, epoch: int, lanes: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Positions in the lane after each window's permutation."""
        window, place = np.divmod(inside, self.window)
        first = window * self.window
        count = np.minimum(self.window, self.lane_length - first)
        base = np.uint64(_key(self.seed, epoch))
        keys = _mix(_mix(base ^ lanes.astype(np.uint64)) + window.astype(np.uint64))
        return first + permute(place, count, keys)


def permute(place: np.ndarray, count: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Image of each `place` in [0, count) under a permutation of [0, count) chosen by `keys` (uint64).

    Rounds of multiplication and shift are bijections of the next power of two; what falls outside [0, count) is
    permuted again until it is inside (cycle walking), less than twice on average. Every place costs the same: no array
    of the window is made. The few bits of a small count mix badly, so a small count uses ranks of random numbers.
    """
    value = place.astype(np.int64)
    small = np.flatnonzero(count <= _SMALL)
    value[small] = _ranks(value[small], count[small], keys[small])
    todo = np.flatnonzero(count > _SMALL)
    last = (count - 1).astype(np.uint64)
    # exact: a double holds every count below 2^53
    bits = np.frexp(last.astype(np.float64))[1].astype(np.uint64)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    while len(todo):
        image = _scramble(value[todo].astype(np.uint64), bits[todo], mask[todo], keys[todo])
        value[todo] = image.astype(np.int64)
        todo = todo[image > last[todo]]
    return value


def _ranks(place: np.ndarray, count: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Rank of each place's random number among those of [0, count)."""
    numbers = _mix(keys[:, None] + np.arange(_SMALL, dtype=np.uint64)[None, :])
    own = np.take_along_axis(numbers, place[:, None], axis=1)
    among = np.arange(_SMALL)[None, :] < count[:, None]
    return ((numbers < own) & among).sum(axis=1)


def _scramble(value: np.ndarray, bits: np.ndarray, mask: np.ndarray, keys: np.ndarray) -> np.ndarray:
    shift = np.maximum(bits >> np.uint64(1), np.uint64(1))
    for turn in range(_ROUNDS):
        keys = _mix(keys + np.uint64(turn))
        value = (value + (keys >> np.uint64(1))) & mask
        value = (value * (keys | np.uint64(1))) & mask
        value = value ^ (value >> shift)
    return value


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014) on uint64, with wrap-around."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def _key(*numbers: int) -> int:
    """64 bits from integers of any size."""
    key = 0
    for number in numbers:
        key = int(_mix(np.array([(key ^ number) & _MASK], dtype=np.uint64))[0])
        key ^= (number >> 64) & _MASK if number >= 0 else 0
    return key


def _listed(numbers: Sequence[int], most: int = 12) -> str:
    shown = [str(number) for number in numbers]
    if len(shown) > most:
        shown = [*shown[: most // 2], "…", *shown[-most // 2 :]]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " or " + shown[-1]
