"""Figures of an order on an imagined set of shards: balance, open shards, bytes read twice, memory, shuffling."""

import time
import timeit
from pathlib import Path
from typing import Any

import numpy as np

from data.order.sample_order import SampleOrder

_PAGE = 4096
_PROBED_RANKS, _PROBED_STEPS, _PROBED_WINDOWS = 32, 8, 256


def simulate(
    *,
    shards: int,
    samples: int,
    sample_bytes: int,
    ranks: int,
    window: int,
    batch_size: int | None = None,
    lanes: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures: for local shards (lanes = batch, window 4096) and for streamed ones. See data.simulate's options."""
    began = time.perf_counter()
    rng = np.random.Generator(np.random.Philox(seed))
    sizes = rng.integers(int(samples * 0.9), int(samples * 1.1) + 1, size=shards)
    weight = sample_bytes * rng.uniform(0.75, 1.25, size=shards)
    batch = batch_size or 16 * ranks
    local = SampleOrder(sizes, seed=seed, batch_size=batch, window=4096)
    streamed = SampleOrder(sizes, seed=seed, batch_size=batch, lanes=lanes or ranks, window=window)
    of_local = _figures(local, weight, ranks, rng) | {"reread_share": 0.0, "page_share": _PAGE / sample_bytes}
    of_streamed = _figures(streamed, weight, ranks, rng) | _streamed(streamed, sizes, weight, ranks, sample_bytes)
    return {
        "samples": local.samples,
        "bytes": float((sizes * weight).sum()),
        "batch": batch,
        "local": of_local,
        "streamed": of_streamed,
        "peak_megabytes": _peak_megabytes(),
        "seconds": time.perf_counter() - began,
    }


def _peak_megabytes() -> float:
    """The most memory this process had. getrusage would tell more where a larger process started it by fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _figures(order: SampleOrder, weight: np.ndarray, ranks: int, rng: np.random.Generator) -> dict[str, Any]:
    first_part = timeit.timeit(lambda: order.part(10**9, ranks - 1, ranks), number=1)
    part = timeit.timeit(lambda: order.part(10**9 + 1, ranks - 1, ranks), number=1)
    per_rank = order.lane_length * (order.lanes // ranks)
    load = _rank_bytes(order, weight, ranks)
    opened = _open_at_once(order, ranks, rng)
    distances = _neighbour_steps(order, rng)
    return {
        "lanes": order.lanes,
        "window": order.window,
        "samples_per_rank_least": per_rank,
        "samples_per_rank_most": per_rank,
        "left_out": order.samples - order.lanes * order.lane_length,
        "bytes_per_rank_least": float(load.min()),
        "bytes_per_rank_most": float(load.max()),
        "shards_open_mean": float(np.mean(opened)),
        "shards_open_most": int(np.max(opened)),
        "steps_per_epoch": order.steps_per_epoch,
        "neighbours_apart_median_steps": float(np.median(distances)),
        "neighbours_apart_mean_steps": float(np.mean(distances)),
        "neighbours_in_one_batch_share": float(np.mean(distances < 1)),
        "first_part_seconds": first_part,
        "part_seconds": part,
    }


def _rank_bytes(order: SampleOrder, weight: np.ndarray, ranks: int) -> np.ndarray:
    """Bytes that each rank reads in the first epoch."""
    plan = order.plan(0)
    of_shard = weight[plan.shards]
    before = np.concatenate([[0.0], np.cumsum(np.diff(plan.starts) * of_shard)])

    def up_to(ring: np.ndarray) -> np.ndarray:
        turns, place = np.divmod(ring, order.samples)
        shard = np.minimum(np.searchsorted(plan.starts, place, side="right") - 1, len(of_shard) - 1)
        return turns * before[-1] + before[shard] + (place - plan.starts[shard]) * of_shard[shard]

    edges = plan.offset + np.arange(ranks + 1) * (order.lanes // ranks) * order.lane_length
    return np.diff(up_to(edges))


def _open_at_once(order: SampleOrder, ranks: int, rng: np.random.Generator) -> list[int]:
    """Number of shards behind the windows in use, for some ranks and steps."""
    own, counts = order.lanes // ranks, []
    last = max(1, int(order.steps_per_epoch))
    for rank in rng.choice(ranks, size=min(ranks, _PROBED_RANKS), replace=False).tolist():
        for step in rng.integers(last, size=_PROBED_STEPS).tolist():
            runs = [order.neighbours(lane, step * order.per_lane)[1] for lane in range(rank * own, (rank + 1) * own)]
            counts.append(len({shard for of_lane in runs for shard, _, _ in of_lane}))
    return counts


def _neighbour_steps(order: SampleOrder, rng: np.random.Generator) -> np.ndarray:
    """Steps between two samples that are neighbours in their shard, over some windows."""
    distances = []
    for _ in range(_PROBED_WINDOWS):
        lane = int(rng.integers(order.lanes))
        first = int(rng.integers(order.lane_length)) // order.window * order.window
        inside = np.arange(first, min(first + order.window, order.lane_length))
        places = order.at(np.full(len(inside), lane), inside)
        by_place = np.lexsort((places[:, 1], places[:, 0]))
        places, step = places[by_place], inside[by_place] // order.per_lane
        next_to = (np.diff(places[:, 0]) == 0) & (np.diff(places[:, 1]) == 1)
        distances.append(np.abs(np.diff(step))[next_to])
    together = np.concatenate(distances)
    return together if len(together) else np.zeros(1)


def _streamed(
    order: SampleOrder, sizes: np.ndarray, weight: np.ndarray, ranks: int, sample_bytes: int
) -> dict[str, Any]:
    """Bytes fetched twice in an epoch, and memory, where shards come over a network."""
    starts = [order.neighbours(lane, 0)[1][0] for lane in range(order.lanes)]
    walked = sum(start * weight[shard] for shard, start, _ in starts)
    plan = order.plan(0)
    edges = (plan.offset + np.arange(ranks + 1) * (order.lanes // ranks) * order.lane_length) % order.samples
    inside = edges[:-1] != plan.starts[np.searchsorted(plan.starts, edges[:-1], side="right") - 1]
    shared = plan.shards[np.searchsorted(plan.starts, edges[:-1][inside], side="right") - 1]
    total = float((sizes * weight).sum())
    lanes = order.lanes // ranks
    return {
        "reread_share_with_offsets": 0.0,
        "reread_share_without_offsets": float(walked / total),
        "reread_share_with_whole_shards": float((sizes[shared] * weight[shared]).sum() / total),
        "memory_per_rank_megabytes": 2 * lanes * order.window * sample_bytes / 1e6,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    local, streamed = figures["local"], figures["streamed"]
    rows: list[tuple[str, str, str]] = [("", "local", "streamed")]

    def row(name: str, form: str, *keys: str) -> None:
        left, right = (form.format(*(part[key] for key in keys)) for part in (local, streamed))
        rows.append((name, left, right))

    row("lanes, window", "{}, {}", "lanes", "window")
    row("samples per rank and epoch, least = most", "{0:,}", "samples_per_rank_least")
    row("samples left out of an epoch", "{:,}", "left_out")
    row("bytes per rank and epoch, least to most", "{:.4g} to {:.4g}", "bytes_per_rank_least", "bytes_per_rank_most")
    row("shards open at once per rank, mean (most)", "{:.1f} ({})", "shards_open_mean", "shards_open_most")
    row("neighbours in a shard, steps apart: median", "{:,.0f}", "neighbours_apart_median_steps")
    row("  of the steps of an epoch", "{:,.0f}", "steps_per_epoch")
    row("  in one batch, share", "{:.2e}", "neighbours_in_one_batch_share")
    row("seconds for one rank's part of a step (first)", "{:.1e} ({:.1e})", "part_seconds", "first_part_seconds")
    rows += [
        ("bytes read twice: by offset", f"{local['reread_share']:.2%}", f"{streamed['reread_share_with_offsets']:.2%}"),
        ("  disk pages shared by neighbours", f"{local['page_share']:.2%}", ""),
        ("  without offsets (walked)", "", f"{streamed['reread_share_without_offsets']:.2%}"),
        ("  whole shards, a cache for each rank", "", f"{streamed['reread_share_with_whole_shards']:.2%}"),
        ("megabytes of samples held per rank", "", f"{streamed['memory_per_rank_megabytes']:,.0f}"),
    ]
    lines = [f"{name:<56}{left:>26}{right:>26}" for name, left, right in rows]
    lines.append(f"{figures['samples']:,} samples, {figures['bytes']:.3g} bytes, global batch {figures['batch']:,}")
    lines.append(f"the simulation took {figures['seconds']:.1f} s and {figures['peak_megabytes']:.0f} MB")
    return "\n".join(lines)
